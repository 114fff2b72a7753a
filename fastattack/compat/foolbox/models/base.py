"""foolbox.models.base: a model is called on inputs between its bounds."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..native import eagerpy, like, unwrap
from ..types import Bounds, BoundsInput, Preprocessing

PreprocessArgs = tuple[Tensor | None, Tensor | None, int | None]


class Model(ABC):
    """Something callable with bounds."""

    @property
    @abstractmethod
    def bounds(self) -> Bounds: ...

    @abstractmethod
    def __call__(self, inputs: Any) -> Any:
        """Outputs (B, ...) of inputs (B, ...) between the bounds."""

    def transform_bounds(self, bounds: BoundsInput) -> Model:
        """The same model for inputs between other bounds."""
        return TransformBoundsWrapper(self, bounds)


def rescale(x: Tensor, have: tuple[float, float], want: tuple[float, float]) -> Tensor:
    """From one range to another."""
    (low, high), (new_low, new_high) = have, want
    return x if have == want else (x - low) / (high - low) * (new_high - new_low) + new_low


def preprocess(x: Tensor, mean: Tensor | None, std: Tensor | None, flip_axis: int | None) -> Tensor:
    """Flipped, less the mean, by the standard deviation; in x's type and on its device."""
    x = x if flip_axis is None else x.flip(flip_axis)
    x = x if mean is None else x - mean.to(x)
    return x if std is None else x / std.to(x)


class TransformBoundsWrapper(Model):
    """A model for inputs between other bounds than its own."""

    def __init__(self, model: Any, bounds: BoundsInput) -> None:
        self._model = model
        self._bounds = bounds_of(bounds)

    @property
    def bounds(self) -> Bounds:
        return self._bounds

    @property
    def data_format(self) -> Any:
        return self._model.data_format

    def __call__(self, inputs: Any) -> Any:
        x = unwrap(inputs, "inputs")
        return self._model(like(inputs)(rescale(x, self._bounds, self._model.bounds)))

    def transform_bounds(self, bounds: BoundsInput, inplace: bool = False) -> Model:
        if not inplace:
            return TransformBoundsWrapper(self._model, bounds)
        self._bounds = bounds_of(bounds)
        return self


class ModelWithPreprocessing(Model):
    """A callable with bounds, and what is done to its inputs first.

    Args:
        model: called on tensors (B, ...).
        bounds: (lower, upper) of the inputs, before the preprocessing.
        dummy: an empty tensor on the model's device.
        preprocessing: "mean" and "std", subtracted and divided by; "axis" < 0, that of the images which one-dimensional
            mean and std run along; "flip_axis", reversed first (RGB to BGR: -3).

    Raises:
        ValueError: another key, an axis >= 0, mean or std of more dimensions beside an axis, no callable.
    """

    def __init__(
        self, model: Callable[[Any], Any], bounds: BoundsInput, dummy: Any, preprocessing: Preprocessing = None
    ) -> None:
        if not callable(model):
            raise ValueError(f"model: wanted something callable, got {type(model).__name__}")
        self._model = model
        self._bounds = bounds_of(bounds)
        self._dummy = unwrap(dummy, "dummy")
        self._preprocess_args = self._arguments({} if preprocessing is None else preprocessing)

    @property
    def bounds(self) -> Bounds:
        return self._bounds

    @property
    def dummy(self) -> Any:
        """An empty tensor on the model's device, eagerpy's where eagerpy is loaded: foolbox.samples asks for it."""
        return eagerpy(self._dummy)

    def __call__(self, inputs: Any) -> Any:
        return like(inputs)(unwrap(self._model(self._preprocess(unwrap(inputs, "inputs"))), "model"))

    def transform_bounds(self, bounds: BoundsInput, inplace: bool = False, wrapper: bool = False) -> Model:
        """The same model for inputs between other bounds, its preprocessing changed with them.

        Args:
            inplace: change this model. wrapper: rescale before the preprocessing instead.

        Raises:
            ValueError: both of them.
        """
        if wrapper:
            if inplace:
                raise ValueError("wrapper: wanted False with inplace=True (inplace and wrapper cannot both be True)")
            return super().transform_bounds(bounds)
        model = self if inplace else copy.copy(self)
        wanted = bounds_of(bounds)
        if wanted == self._bounds:
            return model
        (low, high), (new_low, new_high) = self._bounds, wanted
        factor = (new_high - new_low) / (high - low)
        mean, std, flip_axis = self._preprocess_args
        mean = torch.zeros(1, device=self._dummy.device) if mean is None else mean
        std = torch.ones(1, device=self._dummy.device) if std is None else std
        model._preprocess_args = (factor * (mean - low) + new_low, factor * std, flip_axis)
        model._bounds = wanted
        return model

    def _preprocess(self, x: Tensor) -> Tensor:
        return preprocess(x, *self._preprocess_args)

    def _arguments(self, chosen: dict[str, Any]) -> PreprocessArgs:
        unknown = sorted(set(chosen) - {"mean", "std", "axis", "flip_axis"})
        if unknown:
            raise ValueError(f"preprocessing: wanted 'mean', 'std', 'axis' and 'flip_axis', got {unknown[0]!r}")
        mean, std = (self._tensor(chosen.get(name), name, chosen.get("axis")) for name in ("mean", "std"))
        return mean, std, chosen.get("flip_axis")

    def _tensor(self, value: Any, name: str, axis: int | None) -> Tensor | None:
        if value is None:
            return None
        raw = getattr(value, "raw", value)
        found = raw if isinstance(raw, Tensor) else torch.as_tensor(raw, device=self._dummy.device)
        if axis is None:
            return found
        if found.dim() != 1:
            raise ValueError(f"{name}: wanted one dimension with axis={axis}, got {found.dim()}")
        if axis >= 0:
            raise ValueError(f"axis: wanted None or a number < 0 (-1 is the last), got {axis}")
        return found.reshape(-1, *[1] * (-axis - 1))


def bounds_of(bounds: BoundsInput) -> Bounds:
    """Raises: ValueError where they are not (lower, upper) with lower < upper."""
    found = Bounds(*bounds)
    if not found.lower < found.upper:
        raise ValueError(f"bounds: wanted (lower, upper) with lower < upper, got {tuple(found)}")
    return found
