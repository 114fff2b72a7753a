"""Every op of the package beside plain PyTorch: one file a stem."""

from .trials import DTYPES, SHAPES, STEMS, op_trials

__all__ = ["DTYPES", "SHAPES", "STEMS", "op_trials"]
