"""Deformable registration: fields, similarities, data, training and attacks on registration models.

A pair is a tensor (B, 2, *spatial), channel 0 the moving image, channel 1 the fixed one, both in [0, 1]; a registration
model is called with a pair and gives the field (B, d, *spatial) by which the moving image becomes the fixed one.
"""

from .fields import compose, exponential, folded, jacobian_determinant, warp
from .truth import Truth

__all__ = ["Truth", "compose", "exponential", "folded", "jacobian_determinant", "warp"]
