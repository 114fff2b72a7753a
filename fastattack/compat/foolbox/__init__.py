"""foolbox 3.3 by one import: `import fastattack.compat.foolbox as fb`.

The same names, arguments, defaults and results, on this project's engine; docs/compat.md says what is covered and what
differs. Neither foolbox nor eagerpy is needed; their models, criteria and tensors are accepted.
"""

from typing import TYPE_CHECKING

from . import attacks, criteria, distances, models, types, utils
from .attacks import Attack
from .criteria import Criterion, Misclassification, TargetedMisclassification
from .distances import Distance
from .models import Model, PyTorchModel
from .utils import accuracy

__version__ = "3.3.4"  # of the foolbox whose conventions these are

__all__ = [
    "Attack",
    "Criterion",
    "Distance",
    "Misclassification",
    "Model",
    "PyTorchModel",
    "TargetedMisclassification",
    "accuracy",
    "attacks",
    "criteria",
    "distances",
    "models",
    "types",
    "utils",
]

if not TYPE_CHECKING:  # for a type checker every name would be there

    def __getattr__(name):
        raise AttributeError(f"fastattack.compat.foolbox has no {name!r}; docs/compat.md lists what is covered")
