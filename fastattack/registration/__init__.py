"""Deformable registration: fields, similarities, data, training and attacks on registration models.

A pair is a tensor (B, 2, *spatial), channel 0 the moving image, channel 1 the fixed one, both in [0, 1]; a registration
model is called with a pair and gives the field (B, d, *spatial) by which the moving image becomes the fixed one.
"""

from .fields import compose, exponential, folded, jacobian_determinant, warp
from .measures import Measures, displacement_at, measure
from .overlap import dice, soft_dice, warp_labels
from .similarity import local_correlation, mind_ssc, nmi
from .smoothness import bending_energy, gradient_penalty
from .truth import Truth

__all__ = [
    "Measures",
    "Truth",
    "bending_energy",
    "compose",
    "dice",
    "displacement_at",
    "exponential",
    "folded",
    "gradient_penalty",
    "jacobian_determinant",
    "local_correlation",
    "measure",
    "mind_ssc",
    "nmi",
    "soft_dice",
    "warp",
    "warp_labels",
]
