"""foolbox.models: networks with bounds and preprocessing."""

from typing import TYPE_CHECKING

from .base import Model, ModelWithPreprocessing, TransformBoundsWrapper
from .pytorch import PyTorchModel

__all__ = ["Model", "ModelWithPreprocessing", "PyTorchModel", "TransformBoundsWrapper"]

if not TYPE_CHECKING:  # for a type checker every name would be there

    def __getattr__(name):
        raise AttributeError(f"fastattack.compat.foolbox.models has no {name!r}; docs/compat.md lists what is covered")
