"""An ART estimator for denoisers and other image-to-image models."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

import numpy as np
import torch
from art.estimators.pytorch import PyTorchEstimator
from numpy.typing import NDArray
from torch import Tensor, nn

from ...guard import left_as_found
from ...objectives import Objective
from .loss import objective_of
from .preprocess import preprocessed

Array = NDArray[Any]


class PyTorchRestorer(PyTorchEstimator):  # type: ignore[misc]
    """A model that turns images into images, under ART's attacks and ours.

    The attacks of this package take it; ART's own gradient attacks do as well (`loss_gradient`), more slowly. Targets
    are clean images, like the input where the model keeps its size.

    Args:
        model: nn.Module, called as model(x) with x (N, ...) float32; it is moved to the device.
        loss: a per-sample function of (output, target) as in `fastattack.objectives`, or a torch loss with an
            attribute ``reduction``; None is the mean squared error.
        input_shape: of one sample, where it is fixed.
        clip_values: (low, high) of the pixels, or None: a noisy image leaves [0, 1] by nature.
        channels_first, preprocessing_defences, preprocessing, device_type: as in ART's PyTorchClassifier.

    Raises:
        TypeError, ValueError: an argument that cannot be; the message names it.
    """

    estimator_params: ClassVar[list[str]] = [*PyTorchEstimator.estimator_params, "loss", "input_shape"]

    def __init__(
        self,
        model: nn.Module,
        loss: Any = None,
        input_shape: tuple[int, ...] = (),
        clip_values: tuple[float, float] | None = None,
        channels_first: bool = True,
        preprocessing_defences: Any = None,
        preprocessing: Any = (0.0, 1.0),
        device_type: str = "gpu",
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: wanted an nn.Module, got {type(model).__name__}")
        super().__init__(
            model=model, clip_values=clip_values, channels_first=channels_first,
            preprocessing_defences=preprocessing_defences, preprocessing=preprocessing, device_type=device_type,
        )  # fmt: skip
        self._input_shape = tuple(input_shape)
        self._loss = loss
        self._objective = objective_of(loss)
        self._model.to(self._device)

    def set_params(self, **kwargs: Any) -> None:
        """ART's: attributes by the names of the constructor's arguments."""
        objective = objective_of(kwargs["loss"]) if "loss" in kwargs else self._objective
        super().set_params(**kwargs)
        self._objective = objective

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        found: torch.device = self._device
        return found

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one sample; () where any will do."""
        return self._input_shape

    @property
    def loss(self) -> Any:
        """As it was given."""
        return self._loss

    @property
    def objective(self) -> Objective:
        """The loss as a function (output, target) -> (N,)."""
        return self._objective

    def predict(self, x: Array, batch_size: int = 128, **kwargs: Any) -> Array:
        """The restored images (N, ...) in float32; the model is left as it was."""
        found = []
        with left_as_found(self._model, self._device, eval_mode=True), torch.no_grad():
            for first in range(0, len(x), batch_size):
                found.append(self._run(self._tensor(x[first : first + batch_size])).cpu().numpy())
        return np.concatenate(found).astype(np.float32)

    def loss_gradient(self, x: Array, y: Array, **kwargs: Any) -> Array:
        """The gradient (N, ...) of the mean loss with respect to x."""
        at = self._tensor(x)
        with left_as_found(self._model, self._device, eval_mode=True), torch.enable_grad():
            at.requires_grad_(True)
            loss = self._objective(self._run(at), self._tensor(y)).mean()
            (grad,) = torch.autograd.grad(loss, at)
        found: Array = grad.cpu().numpy()
        return found

    def compute_loss(self, x: Array, y: Array, reduction: str = "none", **kwargs: Any) -> Array:
        """The loss of each sample (N,), or their "mean" or "sum"."""
        if reduction not in ("none", "mean", "sum"):
            raise ValueError(f"reduction: wanted 'none', 'mean' or 'sum', got {reduction!r}")
        with left_as_found(self._model, self._device, eval_mode=True), torch.no_grad():
            loss = self._objective(self._run(self._tensor(x)), self._tensor(y))
        found: Array = (loss if reduction == "none" else getattr(loss, reduction)()).cpu().numpy()
        return found

    def compute_losses(self, x: Array, y: Array, reduction: str = "none") -> dict[str, Array]:
        """As ART's classifiers have it, for its summary writer."""
        return {"total": self.compute_loss(x, y, reduction)}

    def fit(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Restorers are trained by fastattack.training or a loop of your own."""
        raise NotImplementedError("PyTorchRestorer: it is attacked, not trained; fastattack.training trains denoisers")

    def get_activations(self, *args: Any, **kwargs: Any) -> NoReturn:
        """No attack of this package needs them."""
        raise NotImplementedError("PyTorchRestorer: it gives no activations; put a forward hook on the model")

    def _tensor(self, x: Array) -> Tensor:
        return torch.from_numpy(np.array(x, dtype=np.float32)).to(self._device)

    def _run(self, x: Tensor) -> Tensor:
        found: Tensor = preprocessed(self, tuple(x.shape), self._device)(x)
        return found
