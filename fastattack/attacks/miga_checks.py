"""What MIGA demands of its options. Each error names the option."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ..engine.schedule import number_of
from ..information.bounds import require_estimator
from ..objectives.semantic import Weight
from .base import Options
from .mining import Mining

LARGEST = 16.0
"""No image in [0, 1] with noise of sigma 1 beside it reaches that."""


def check_model(model: Any, name: str) -> None:
    """One model, or none for the task and the encoder."""
    if model is None and name != "denoiser":
        return
    if not callable(model) or isinstance(model, type):
        raise TypeError(f"{name}: wanted one model, called as {name}(images), got {told(model)}")


def told(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def check_options(options: Options, mined: bool) -> None:
    for name in ("objective", "targeted", "ensemble"):
        if name in options:
            hint = "; target= says where to" if name == "targeted" else ""
            raise TypeError(f"MIGA: {name} has no place here{hint}")
    for name, wanted in (("keep", "last"), ("restarts", 1), ("graph", "never")) if mined else ():
        if options.get(name, wanted) != wanted:
            raise ValueError(
                f"{name}: wanted {wanted!r} for an unknown task, whose critic changes from step to step, got "
                f"{options[name]!r}"  # type: ignore[literal-required]
            )
    if mined:
        options["graph"] = "never"


def check_radius(eps: Any, norm: str) -> None:
    """Of an linf ball around images in [0, 1], whose losses know no other scale."""
    if norm != "linf" or isinstance(eps, bool) or not isinstance(eps, (int, float, Tensor)):
        return
    largest = float(eps.detach().amax()) if isinstance(eps, Tensor) and eps.numel() else eps
    if isinstance(largest, (int, float)) and largest > 1:
        raise ValueError(f"eps: wanted a radius for images in [0, 1], such as 5/255, got {largest:g}")


def check_scale(images: Tensor, name: str) -> None:
    """Images in [0, 1] with noise beside them; what goes to 255 is none."""
    largest = float(images.detach().abs().amax()) if images.numel() else 0.0
    if largest > LARGEST:
        raise ValueError(f"{name}: wanted images in [0, 1], noise beside them, got values to {largest:g}")


def check_weights(weights: tuple[Weight, Weight, Weight]) -> None:
    """Numbers >= 0 at the ends of the walk, not all of them 0 throughout."""
    for name, weight in zip(("lambda_mi", "lambda_rec", "lambda_com"), weights, strict=True):
        if isinstance(weight, tuple) and len(weight) != 2:
            raise ValueError(f"{name}: wanted a number, (first, last) or a function, got {len(weight)} numbers")
        if callable(weight):
            continue
        for number in weight if isinstance(weight, tuple) else (weight,):
            if not 0 <= number_of(number, name) < math.inf:
                raise ValueError(f"{name}: wanted a finite weight >= 0, got {number!r}")
    if all(not callable(w) and not any(w if isinstance(w, tuple) else (w,)) for w in weights):
        raise ValueError("lambda_mi, lambda_rec, lambda_com: wanted one above 0 at least, got 0 for all")


def check_meaning(task: Any, task_loss: Any, target: Any, estimator: Any, encoder: Any, bank: Any) -> None:
    """What belongs to a known task, or to an unknown one, and is what it has to be."""
    known, unknown = (
        {"task_loss": task_loss, "target": target},
        {"estimator": estimator, "encoder": encoder, "bank": bank},
    )
    for name, value in (known if task is None else unknown).items():
        if value is not None:
            place = "without a task model" if task is None else "beside a task model"
            raise TypeError(f"{name}: wanted None {place}, got {told(value)}")
    if task_loss is not None and not callable(task_loss):
        raise TypeError(f"task_loss: wanted a function of (verdict, labels), got {told(task_loss)}")
    if target is not None and (isinstance(target, bool) or not isinstance(target, (int, Tensor))):
        raise TypeError(f"target: wanted a class, a tensor with a row for each sample, or None, got {told(target)}")
    if bank is not None and not (isinstance(bank, Tensor) and bank.is_floating_point()):
        raise TypeError(f"bank: wanted a float tensor of clean images (N, C, H, W), got {told(bank)}")
    if estimator is not None and not isinstance(estimator, Mining):
        require_estimator(estimator)
