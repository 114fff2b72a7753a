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
from .volumes import Volume, normalise, read_labels, read_pair, read_volume, write_field, write_volume

__all__ = [
    "Harm",
    "ImageBatches",
    "Measures",
    "PairBatch",
    "PairBatches",
    "RegistrationAttack",
    "RegistrationLoss",
    "RegistrationTransfer",
    "RegistrationValidation",
    "Subject",
    "Synthetic",
    "Truth",
    "UniversalRegistration",
    "Volume",
    "as_given",
    "attack_registration",
    "attacking",
    "batches",
    "bending_energy",
    "brain_template",
    "compose",
    "dice",
    "dipy_slices",
    "displacement_at",
    "exponential",
    "fields_of",
    "folded",
    "gradient_penalty",
    "harm",
    "harm_of",
    "jacobian_determinant",
    "landmarks",
    "local_correlation",
    "losses",
    "measure",
    "mind_ssc",
    "nmi",
    "normalise",
    "one_side",
    "read_labels",
    "read_pair",
    "read_volume",
    "sides",
    "smooth_velocity",
    "soft_dice",
    "synthesised",
    "train_registration",
    "training",
    "transfer",
    "transferring",
    "universal",
    "universals",
    "warp",
    "warp_labels",
    "write_field",
    "write_volume",
]
