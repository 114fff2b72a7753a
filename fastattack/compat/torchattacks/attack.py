"""The base class: what every attack of torchattacks 3.5 has beside its own arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from numbers import Number
from typing import Any

import torch
from torch import Tensor, nn

from ...attacks import Attack as Engine
from ...fast import speed_of
from ...guard import buffers_kept, modules_of
from ...objectives import Objective, cross_entropy
from . import checks
from .saving import Saving
from .targets import Targets


class Attack(Targets, Saving):
    """Base class of all attacks; `forward` is what a subclass of your own overrides.

    Calling it attacks a batch: ``attack(inputs, labels)``, inputs (B, C, H, W) in [0, 1] (normalised after
    `set_normalization_used`), labels (B,) int64; returns images like inputs, detached. During a call the model is in
    eval mode, or in that of `set_model_training_mode`; after it every module's mode, its buffers and its gradients are
    as before, also after an exception.

    Random starts are drawn from torch's global generator as torchattacks draws them: torch.manual_seed repeats them.

    Args:
        name: of the attack, for its repr.
        model: gives logits (B, classes); an nn.Module or any callable.
    """

    def __init__(self, name: str, model: Callable[..., Any]) -> None:
        self.attack = name
        self.set_model(model)
        self.device = _device_of(model)
        self.attack_mode = "default"
        self.supported_mode = ["default"]
        self.targeted = False
        self.normalization_used: dict[str, Tensor] | None = None
        self._target_map_function: Any = None
        self._normalization_applied: bool | None = None
        self._model_training = False
        self._batchnorm_training = False
        self._dropout_training = False
        self._speed: dict[str, Any] = {}
        self._normalised: nn.Module | None = None
        if type(model).__name__ == "RobModel":
            self._take_normalization(model)

    # -- what a user calls ---------------------------------------------------------------------------------------------

    def forward(self, inputs: Tensor, labels: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
        """The attack itself, on images in [0, 1]."""
        raise NotImplementedError

    def __call__(self, inputs: Tensor, labels: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
        if isinstance(inputs, Tensor) and len(inputs) == 0:
            return inputs.detach().clone().to(self.device)
        with self._modes():
            if self._normalization_applied is not True:
                return self.forward(inputs, labels, *args, **kwargs)
            with self._in_pixels():
                return self.normalize(self.forward(self.inverse_normalize(inputs), labels, *args, **kwargs))

    def get_logits(self, inputs: Tensor, labels: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
        """The model's output for images as `forward` sees them. A subclass may override it."""
        if self._normalization_applied is False:
            inputs = self.normalize(inputs)
        logits: Tensor = self.model(inputs)
        return logits

    def set_model(self, model: Callable[..., Any]) -> None:
        if not callable(model):
            raise TypeError(f"model: wanted something callable as model(x), got {type(model).__name__}")
        self.model: Any = model
        self.model_name = type(model).__name__
        for part in self._parts():
            part.set_model(model)

    def set_device(self, device: Any) -> None:
        self.device = device
        self._normalised = None
        for part in self._parts():
            part.set_device(device)

    def set_speed(self, **options: Any) -> Attack:
        """How gradients are made, by the fields of `fastattack.fast.Speed` (precision="auto", compile=True, ...).

        Not in torchattacks. Without it gradients are float32, as torchattacks' are. Returns the attack.
        """
        speed_of(**options)
        self._speed = options
        for part in self._parts():
            part.set_speed(**options)
        return self

    def set_normalization_used(self, mean: Any, std: Any) -> None:
        """Inputs are (image - mean) / std, and results too; eps and the like stay on the [0, 1] scale."""
        mean, std = (torch.as_tensor(v).detach().clone() for v in (mean, std))
        if mean.dim() != 1 or mean.shape != std.shape or bool((std == 0).any()):
            raise ValueError(
                f"mean, std: wanted a number for each channel, std not 0, got shapes {tuple(mean.shape)}, "
                f"{tuple(std.shape)}"
            )
        shape = (1, len(mean), 1, 1)
        self.normalization_used = {"mean": mean.reshape(shape), "std": std.reshape(shape)}
        self._normalization_applied = True
        self._normalised = None
        for part in self._parts():
            part.set_normalization_used(mean, std)

    def normalize(self, inputs: Tensor) -> Tensor:
        return _normalise(inputs, *self._statistics(inputs.device))

    def inverse_normalize(self, inputs: Tensor) -> Tensor:
        mean, std = self._statistics(inputs.device)
        return _typed(inputs * std + mean, inputs)

    def set_model_training_mode(
        self, model_training: bool = False, batchnorm_training: bool = False, dropout_training: bool = False
    ) -> None:
        """The model's mode during an attack: eval mode, or training mode with or without that of its batch norms and
        dropouts. What batch norms learn during an attack is undone after it."""
        self._model_training = model_training
        self._batchnorm_training = batchnorm_training
        self._dropout_training = dropout_training
        for part in self._parts():
            part.set_model_training_mode(model_training, batchnorm_training, dropout_training)

    def __repr__(self) -> str:
        hidden = ("model", "attack", "supported_mode")
        info = {k: v for k, v in vars(self).items() if k not in hidden and not k.startswith("_")}
        info["normalization_used"] = self.normalization_used is not None
        return f"{self.attack}({', '.join(f'{k}={v}' for k, v in info.items())})"

    # -- what attacks use ----------------------------------------------------------------------------------------------

    def _ready(self, images: Tensor, labels: Any) -> tuple[Tensor, Tensor, Tensor]:
        """(images, labels, what the objective compares with): on the device, checked."""
        checks.numbers(self)
        checks.images(images)
        checks.labels(labels, images)
        images = images.detach().to(self.device)
        labels = labels.detach().to(self.device).long()
        images = checks.in_range(images, self.normalization_used is not None)
        return images, labels, self.get_target_label(images, labels) if self.targeted else labels

    def _engine(
        self,
        kind: Callable[..., Engine],
        *,
        objective: Objective = cross_entropy,
        **options: Any,
    ) -> Engine:
        """Our attack, with what is the same for all; NumPy's numbers as Python's."""
        plain = {k: v.item() if isinstance(v, Number) and hasattr(v, "item") else v for k, v in options.items()}
        return kind(
            self._victim(), objective=objective, targeted=self.targeted, bounds=(0.0, 1.0),
            eval_mode=not self._model_training, **self._speed, **plain,
        )  # fmt: skip

    def _walk(
        self, kind: Callable[..., Engine], images: Tensor, target: Any, *, start: Tensor | None = None, **options: Any
    ) -> Tensor:
        """The last iterate of our attack from ``start``, or from the images."""
        if options.get("steps") == 0:
            return images.clone() if start is None else start
        return self._engine(kind, keep="last", **options)(images, target, start=start)

    def _victim(self) -> Callable[..., Any]:
        """The model, as images in [0, 1] are put to it: whole, so that the engine can make it fast."""
        if "get_logits" in vars(self) or type(self).get_logits is not Attack.get_logits:
            return self.get_logits
        if self._normalization_applied is not False:
            model: Callable[..., Any] = self.model
            return model
        if not isinstance(self.model, nn.Module):
            return self.get_logits
        if self._normalised is None or self._normalised.model is not self.model:
            self._normalised = _Normalised(self.model, *self._statistics(self.device))
        self._normalised.training = self.model.training
        return self._normalised

    # -- state ---------------------------------------------------------------------------------------------------------

    def _parts(self) -> Iterator[Attack]:
        """The attacks that this one is made of."""
        yield from _attacks_in(list(vars(self).values()))

    @contextmanager
    def _modes(self) -> Iterator[None]:
        """Inside: the modes of an attack. After: each module's own, and its buffers.

        The engine does so too, but not for what `get_logits` of a subclass calls, nor in forward passes beside it.
        """
        modules = modules_of(self.model)
        before = [(m, m.training) for m in modules]
        with buffers_kept(modules):
            try:
                for m in modules:
                    held = ("BatchNorm" in type(m).__name__ and not self._batchnorm_training) or (
                        "Dropout" in type(m).__name__ and not self._dropout_training
                    )
                    m.training = self._model_training and not held
                yield
            finally:
                for m, flag in before:
                    m.training = flag

    @contextmanager
    def _in_pixels(self) -> Iterator[None]:
        """Inside: images are in [0, 1], for this attack and its parts."""
        with ExitStack() as stack:
            self._normalization_applied = False
            stack.callback(setattr, self, "_normalization_applied", True)
            for part in self._parts():
                if part._normalization_applied is True:
                    stack.enter_context(part._in_pixels())
            yield

    def _statistics(self, device: Any) -> tuple[Tensor, Tensor]:
        if self.normalization_used is None:
            raise ValueError("normalize: wanted set_normalization_used(mean, std) first")
        return self.normalization_used["mean"].to(device), self.normalization_used["std"].to(device)

    def _take_normalization(self, model: Any) -> None:
        """The normalisation of a model of MAIR."""
        mean, std = getattr(model, "mean", None), getattr(model, "std", None)
        if mean is None or std is None:
            return
        mean, std = (torch.as_tensor(v).detach().cpu().flatten() for v in (mean, std))
        if bool((mean != 0).all()) or bool((std != 1).all()):
            self.set_normalization_used(mean, std)


class _Normalised(nn.Module):
    """A model of normalised images, as one of images in [0, 1]."""

    def __init__(self, model: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.model, self.mean, self.std = model, mean, std

    def forward(self, x: Tensor) -> Any:
        return self.model(_normalise(x, self.mean, self.std))


def _attacks_in(value: Any) -> Iterator[Attack]:
    """The attacks that a value is or holds, in lists of lists too."""
    if isinstance(value, Attack):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _attacks_in(one)


def _normalise(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return _typed((x - mean) / std, x)


def _typed(value: Tensor, like: Tensor) -> Tensor:
    """In the type of these images: mean and std may be wider."""
    return value.to(like.dtype) if like.is_floating_point() else value


def _device_of(model: Any) -> Any:
    try:
        return next(model.parameters()).device
    except Exception:  # no module, or one without parameters
        print("Failed to set device automatically, please try set_device() manual.")
        return None
