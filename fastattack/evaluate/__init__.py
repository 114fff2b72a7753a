"""Evaluation: how far attacks carry between models, what they look like, and how sure that is."""

from .bootstrap import Bootstrap, Estimate
from .matrix import TransferMatrix
from .statistics import attack_statistics
from .transfer import RobustnessCurve, robustness_curve, transfer_matrix

__all__ = [
    "Bootstrap",
    "Estimate",
    "RobustnessCurve",
    "TransferMatrix",
    "attack_statistics",
    "robustness_curve",
    "transfer_matrix",
]
