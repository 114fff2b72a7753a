"""What an ART estimator means to the engine: a model, an objective, bounds, a device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from art.estimators.classification.pytorch import PyTorchClassifier
from numpy.typing import NDArray
from torch import Tensor, nn

from ... import objectives
from ...guard import left_as_found
from ...objectives import Objective
from .loss import per_sample
from .preprocess import preprocessed
from .restorer import PyTorchRestorer

Array = NDArray[Any]
_INDEXED = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)


@contextmanager
def untouched(estimator: Any) -> Iterator[None]:
    """The estimator in eval mode inside; its model's flags, buffers and torch's random state after as before."""
    with left_as_found(estimator._model, estimator.device, eval_mode=True):
        yield


def predict(estimator: Any, x: Array, batch_size: int) -> Array:
    """The estimator's own predictions, preprocessing and postprocessing included."""
    with untouched(estimator):
        return np.asarray(estimator.predict(x, batch_size=batch_size))


@dataclass(frozen=True)
class Victim:
    """An estimator, as it is at one call.

    Attributes:
        model: preprocessing and model as one module.
        bounds: the clip values, or None.
        classes: None for a restorer.
    """

    estimator: Any
    model: nn.Module
    device: torch.device
    bounds: tuple[float, float] | None
    classes: int | None

    @classmethod
    def of(cls, estimator: Any, shape: tuple[int, ...], before: nn.Module | None = None) -> Victim:
        """
        Args:
            shape: of the batch. before: the module of an earlier call.

        Raises:
            ValueError: its preprocessing or clip values are of a kind that the engine does not know.
        """
        device = estimator.device
        classes = None if isinstance(estimator, PyTorchRestorer) else int(estimator.nb_classes)
        return cls(estimator, preprocessed(estimator, shape, device, before), device, bounds_of(estimator), classes)

    def objective(self, *, soft: bool) -> Objective:
        """The estimator's loss for each sample. ``soft``: targets are probabilities (N, classes)."""
        if isinstance(self.estimator, PyTorchRestorer):
            return self.estimator.objective
        loss = self.estimator.loss
        if type(loss) is nn.CrossEntropyLoss and loss.weight is None and loss.label_smoothing == 0 and not soft:
            return objectives.cross_entropy
        if isinstance(loss, (nn.BCELoss, nn.BCEWithLogitsLoss)):
            raise ValueError(
                f"estimator: wanted a loss of (outputs, classes), got {type(loss).__name__}; "
                "give the model two outputs and the classifier nn.CrossEntropyLoss()"
            )
        return per_sample(loss)

    def target_form(self) -> str:
        """How the loss wants its targets: "images", "labels" (N,), "rows" (N, classes), "either" of these two."""
        if self.classes is None:
            return "images"
        loss = self.estimator.loss
        if isinstance(loss, nn.CrossEntropyLoss):
            return "either"
        return "labels" if isinstance(loss, _INDEXED) else "rows"

    def put(self, array: Array) -> Tensor:
        """On the model's device."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


def check_estimator(estimator: Any, attack: str) -> None:
    """A torch estimator whose gradients are those of its model.

    Raises:
        TypeError: it is of another framework, or makes its gradients in a way of its own.
    """
    if isinstance(estimator, PyTorchRestorer):
        return
    if not isinstance(estimator, PyTorchClassifier):
        raise TypeError(
            f"estimator: wanted a PyTorchClassifier or a fastattack.compat.art.PyTorchRestorer for {attack}, "
            f"got {type(estimator).__name__}"
        )
    if type(estimator).loss_gradient is not PyTorchClassifier.loss_gradient:
        raise TypeError(
            f"estimator: wanted a classifier whose loss_gradient is PyTorchClassifier's for {attack}, "
            f"got {type(estimator).__name__}, which has its own"
        )
    if estimator.use_amp:
        raise TypeError("estimator: wanted use_amp=False, got True; attack.set_speed(precision='fp16') is the way here")


def bounds_of(estimator: Any) -> tuple[float, float] | None:
    """The clip values as one interval for all pixels."""
    clip = estimator.clip_values
    if clip is None:
        return None
    low, high = (np.unique(np.asarray(v, dtype=np.float32)) for v in clip)
    if len(low) != 1 or len(high) != 1 or not (np.isfinite(low[0]) and np.isfinite(high[0])):
        raise ValueError("clip_values: wanted one finite interval for all pixels in the estimator, got several")
    return float(low[0]), float(high[0])
