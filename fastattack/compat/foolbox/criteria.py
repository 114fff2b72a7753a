"""foolbox.criteria: which perturbed inputs are adversarial. foolbox's own objects do as well as these."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from .native import eagerpy, is_eagerpy, like, unwrap


class Criterion(ABC):
    """Says of each perturbed input whether it is adversarial; ``a & b`` wants both."""

    @abstractmethod
    def __repr__(self) -> str: ...

    @abstractmethod
    def __call__(self, perturbed: Any, outputs: Any) -> Any:
        """(B,) bool, for perturbed inputs (B, ...) and the model's outputs (B, classes)."""

    def __and__(self, other: Any) -> Criterion:
        return _And(self, other)


class _And(Criterion):
    def __init__(self, a: Any, b: Any) -> None:
        self.a, self.b = a, b

    def __repr__(self) -> str:
        return f"{self.a!r} & {self.b!r}"

    def __call__(self, perturbed: Any, outputs: Any) -> Any:
        both = [unwrap(ask(c, perturbed, outputs), "criterion") for c in (self.a, self.b)]
        return like(outputs)(torch.logical_and(*both))


class Misclassification(Criterion):
    """The predicted class is another than the label.

    Args:
        labels: (B,) integers, the classes of the unperturbed inputs.
    """

    def __init__(self, labels: Any) -> None:
        unwrap(labels, "labels")
        self.labels = labels

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.labels!r})"

    def __call__(self, perturbed: Any, outputs: Any) -> Any:
        return like(outputs)(_classes(outputs, self.labels, "labels") != unwrap(self.labels, "labels"))


class TargetedMisclassification(Criterion):
    """The predicted class is the wanted one.

    Args:
        target_classes: (B,) integers, the classes that the attack shall reach.
    """

    def __init__(self, target_classes: Any) -> None:
        unwrap(target_classes, "target_classes")
        self.target_classes = target_classes

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.target_classes!r})"

    def __call__(self, perturbed: Any, outputs: Any) -> Any:
        wanted = unwrap(self.target_classes, "target_classes")
        return like(outputs)(_classes(outputs, self.target_classes, "target_classes") == wanted)


def _classes(outputs: Any, wanted: Any, name: str) -> Tensor:
    classes, shape = unwrap(outputs, "outputs").argmax(-1), unwrap(wanted, name).shape
    if classes.shape != shape:
        raise AssertionError(f"{name}: wanted shape {tuple(classes.shape)} as the predictions have, got {tuple(shape)}")
    return classes


def is_a(criterion: Any, name: str) -> bool:
    """An object of the class ``name``, this module's or foolbox's, or of one derived from it."""
    homes = (__name__, "foolbox.criteria")
    return any(c.__name__ == name and c.__module__ in homes for c in type(criterion).__mro__)


def get_criterion(criterion: Any) -> Any:
    """The criterion itself; labels mean Misclassification."""
    return criterion if is_a(criterion, "Criterion") else Misclassification(criterion)


def ask(criterion: Any, perturbed: Any, outputs: Any) -> Any:
    """What a criterion says; foolbox's own, and those derived from them, see eagerpy tensors as in foolbox."""
    own = any(c.__module__ == "foolbox.criteria" for c in type(criterion).__mro__)
    if own and not is_eagerpy(outputs):
        found = criterion(eagerpy(unwrap(perturbed, "perturbed")), eagerpy(unwrap(outputs, "outputs")))
        return unwrap(found, "criterion")
    return criterion(perturbed, outputs)


def goal_of(criterion: Any, batch: int, *, exact: bool = False) -> tuple[Tensor, bool]:
    """The classes (B,) int64 that an attack leaves or, if the second is True, wants to reach.

    Args:
        exact: only the two classes of criteria; else also another with ``target_classes``.

    Raises:
        ValueError: another criterion, or classes of another shape; RuntimeError: they are no integers.
        IndexError: one is below 0.
    """
    if is_a(criterion, "Misclassification"):
        return _checked(criterion.labels, "labels", batch), False
    if is_a(criterion, "TargetedMisclassification") or (not exact and hasattr(criterion, "target_classes")):
        return _checked(criterion.target_classes, "target_classes", batch), True
    raise ValueError(
        "criterion: wanted labels, Misclassification or TargetedMisclassification, "
        f"got {type(criterion).__name__} (unsupported criterion)"
    )


def _checked(classes: Any, name: str, batch: int) -> Tensor:
    found = unwrap(classes, name)
    got = f"{tuple(found.shape)} {str(found.dtype).removeprefix('torch.')}"
    if found.shape != (batch,):
        image = found.dim() > 1 and found.is_floating_point()
        hint = "; an image as target wants fastattack.PGD(model, eps=..., objective=...)" if image else ""
        raise ValueError(f"{name}: wanted integers of shape ({batch},), got {got}{hint}")
    if found.is_floating_point() or found.is_complex() or found.dtype is torch.bool:
        raise RuntimeError(f"{name}: wanted integers, got {got}")
    if int(found.min()) < 0:
        raise IndexError(f"{name}: wanted classes from 0 on, got {int(found.min())}")
    return found.long()
