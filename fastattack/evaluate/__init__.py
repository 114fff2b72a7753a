"""Evaluation: how far attacks carry between models, what they look like, and how sure that is."""

from .bootstrap import Bootstrap, Estimate
from .matrix import TransferMatrix
from .semantic import SemanticChange, TradeoffCurve, semantic_change, tradeoff_curve
from .statistics import attack_statistics
from .transfer import RobustnessCurve, robustness_curve, transfer_matrix

__all__ = [
    "Bootstrap",
    "Estimate",
    "RobustnessCurve",
    "SemanticChange",
    "TradeoffCurve",
    "TransferMatrix",
    "attack_statistics",
    "robustness_curve",
    "semantic_change",
    "tradeoff_curve",
    "transfer_matrix",
]
