"""Deformable registration: fields, similarities, data, training and attacks on registration models.

A pair is a tensor (B, 2, *spatial), channel 0 the moving image, channel 1 the fixed one, both in [0, 1]; a registration
model is called with a pair and gives the field (B, d, *spatial) by which the moving image becomes the fixed one.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .classical import Classical
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

if TYPE_CHECKING:
    from .attacking import RegistrationAttack, attack_registration
    from .batches import ImageBatches, PairBatches
    from .harm import Harm, fields_of, harm_of
    from .losses import RegistrationLoss
    from .opening import OpenedRegistration, open_registration
    from .pictures import checkerboard, determinant_picture, grid_picture
    from .registering import Registered, register
    from .sides import one_side
    from .training import RegistrationValidation, as_given, synthesised, train_registration
    from .transferring import RegistrationTransfer, transfer
    from .universals import UniversalRegistration, universal

__all__ = [
    "Classical",
    "Harm",
    "ImageBatches",
    "Measures",
    "OpenedRegistration",
    "PairBatch",
    "PairBatches",
    "Registered",
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
    "bending_energy",
    "brain_template",
    "checkerboard",
    "compose",
    "determinant_picture",
    "dice",
    "dipy_slices",
    "displacement_at",
    "exponential",
    "fields_of",
    "folded",
    "gradient_penalty",
    "grid_picture",
    "harm_of",
    "jacobian_determinant",
    "landmarks",
    "local_correlation",
    "measure",
    "mind_ssc",
    "nmi",
    "normalise",
    "one_side",
    "open_registration",
    "read_labels",
    "read_pair",
    "read_volume",
    "register",
    "smooth_velocity",
    "soft_dice",
    "synthesised",
    "train_registration",
    "transfer",
    "universal",
    "warp",
    "warp_labels",
    "write_field",
    "write_volume",
]

_LATER = {  # what attacks and trains: it needs objectives and models, which need the fields and measures above
    "attacking": "RegistrationAttack attack_registration",
    "batches": "ImageBatches PairBatches",
    "harm": "Harm fields_of harm_of",
    "losses": "RegistrationLoss",
    "opening": "OpenedRegistration open_registration",
    "pictures": "checkerboard determinant_picture grid_picture",
    "registering": "Registered register",
    "sides": "one_side",
    "training": "RegistrationValidation as_given synthesised train_registration",
    "transferring": "RegistrationTransfer transfer",
    "universals": "UniversalRegistration universal",
}
_HOMES = {name: module for module, names in _LATER.items() for name in names.split()}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = getattr(import_module(f".{_HOMES[name]}", __name__), name)
        return globals()[name]
