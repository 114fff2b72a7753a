"""Every op of the package beside plain PyTorch: one file a stem."""

from .case import DTYPES
from .trials import SHAPES, STEMS, op_trials

__all__ = ["DTYPES", "SHAPES", "STEMS", "op_trials"]
