"""What a job leaves on disk."""

from .picture import comparison
from .write import MigaFolder, ReportFolder

__all__ = ["MigaFolder", "ReportFolder", "comparison"]
