"""foolbox.models: networks with bounds and preprocessing."""

from .base import Model, ModelWithPreprocessing, TransformBoundsWrapper
from .pytorch import PyTorchModel

__all__ = ["Model", "ModelWithPreprocessing", "PyTorchModel", "TransformBoundsWrapper"]


def __getattr__(name: str) -> None:
    raise AttributeError(f"fastattack.compat.foolbox.models has no {name!r}; docs/compat.md lists what is covered")
