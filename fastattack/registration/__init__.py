"""Deformable registration: fields, similarities, data, training and attacks on registration models.

A pair is a tensor (B, 2, *spatial), channel 0 the moving image, channel 1 the fixed one, both in [0, 1]; a registration
model is called with a pair and gives the field (B, d, *spatial) by which the moving image becomes the fixed one.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .fields import compose, exponential, folded, jacobian_determinant, warp
from .landmarks import landmarks
from .measures import Measures, displacement_at, measure
from .overlap import dice, soft_dice, warp_labels
from .similarity import local_correlation, mind_ssc, nmi
from .smoothness import bending_energy, gradient_penalty
from .synthetic import PairBatch, Synthetic, smooth_velocity
from .templates import Subject, brain_template, dipy_slices
from .truth import Truth

if TYPE_CHECKING:
    from .batches import ImageBatches, PairBatches
    from .losses import RegistrationLoss
    from .training import RegistrationValidation, as_given, synthesised, train_registration

__all__ = [
    "ImageBatches",
    "Measures",
    "PairBatch",
    "PairBatches",
    "RegistrationLoss",
    "RegistrationValidation",
    "Subject",
    "Synthetic",
    "Truth",
    "as_given",
    "bending_energy",
    "brain_template",
    "compose",
    "dice",
    "dipy_slices",
    "displacement_at",
    "exponential",
    "folded",
    "gradient_penalty",
    "jacobian_determinant",
    "landmarks",
    "local_correlation",
    "measure",
    "mind_ssc",
    "nmi",
    "smooth_velocity",
    "soft_dice",
    "synthesised",
    "train_registration",
    "warp",
    "warp_labels",
]

_LATE = {  # what attacks and trains, which import objectives, which import the measures above
    "batches": "ImageBatches PairBatches",
    "losses": "RegistrationLoss",
    "training": "RegistrationValidation as_given synthesised train_registration",
}
_HOMES = {name: module for module, names in _LATE.items() for name in names.split()}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
        globals()[name] = value
        return value
