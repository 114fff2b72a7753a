"""Deformable registration: fields, similarities, data, training and attacks on registration models.

A pair is a tensor (B, 2, *spatial), channel 0 the moving image, channel 1 the fixed one, both in [0, 1]; a registration
model is called with a pair and gives the field (B, d, *spatial) by which the moving image becomes the fixed one.
"""

from .fields import compose, exponential, folded, jacobian_determinant, warp
from .landmarks import landmarks
from .synthetic import PairBatch, Synthetic, smooth_velocity
from .templates import Subject, brain_template, dipy_slices
from .truth import Truth
from .volumes import Volume, normalise, read_labels, read_pair, read_volume, write_field, write_volume

__all__ = [
    "PairBatch",
    "Subject",
    "Synthetic",
    "Truth",
    "Volume",
    "brain_template",
    "compose",
    "dipy_slices",
    "exponential",
    "folded",
    "jacobian_determinant",
    "landmarks",
    "normalise",
    "read_labels",
    "read_pair",
    "read_volume",
    "smooth_velocity",
    "warp",
    "write_field",
    "write_volume",
]
