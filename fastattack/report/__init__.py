"""What a job leaves on disk."""

from .picture import comparison
from .write import ReportFolder

__all__ = ["ReportFolder", "comparison"]
