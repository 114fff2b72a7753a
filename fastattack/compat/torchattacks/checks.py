"""What is refused: with the exception that torch raises inside torchattacks, where it raises one."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor


def images(value: Any) -> None:
    """A batch of floating images.

    Raises:
        AttributeError: no tensor. RuntimeError: whole numbers, which torch cannot differentiate. ValueError: NaN.
    """
    if not isinstance(value, Tensor):
        raise AttributeError(f"inputs: wanted a tensor of images (B, C, H, W), got {type(value).__name__}")
    if not value.is_floating_point():
        raise RuntimeError(f"inputs: wanted floating images in [0, 1], got {value.dtype}; divide by 255")


def in_range(value: Tensor, normalised: bool) -> Tensor:
    """The images, from 0 to 1 once what normalisation and its inverse round is cut off.

    torchattacks clips all that is outside, and its perturbation is no longer small.

    Raises:
        ValueError: NaN, or pixels further outside.
    """
    low, high = (v.item() for v in value.aminmax())
    slack = max(1e-5, 4 * torch.finfo(value.dtype).eps) if normalised else 0.0
    if not (low >= -slack and high <= 1 + slack):  # NaN is neither
        how = "are mean and std those of the inputs?" if normalised else "for normalised ones: set_normalization_used"
        raise ValueError(f"inputs: wanted images in [0, 1], got {low:g} to {high:g} ({how})")
    return value if low >= 0 and high <= 1 else value.clamp(0, 1)


def labels(value: Any, inputs: Tensor) -> None:
    """Class indices (B,).

    Raises:
        AttributeError: no tensor. RuntimeError: floating labels. ValueError: another number of them than of images, or
            an image: torch would take it for probabilities of classes.
    """
    if not isinstance(value, Tensor):
        raise AttributeError(f"labels: wanted a tensor of class indices (B,), got {type(value).__name__}")
    if value.is_floating_point() and value.dim() > 1:
        raise ValueError(
            f"labels: wanted class indices (B,), got {tuple(value.shape)} {value.dtype}; for a target image attack "
            "with fastattack.PGD(model, objective=fastattack.objectives.mse, ...) or fastattack.DenoisingPGD"
        )
    if value.is_floating_point() or value.is_complex() or value.dtype is torch.bool:
        raise RuntimeError(f"labels: wanted whole numbers, got {value.dtype}")
    if value.dim() == 0 or len(value) != len(inputs):
        raise ValueError(f"labels: wanted {len(inputs)} of them as there are images, got {tuple(value.shape)}")


def numbers(attack: Any) -> None:
    """The sizes that an attack has among its attributes, where a user may have changed them since.

    Raises:
        TypeError: no number. ValueError: one that cannot be.
    """
    for name in ("eps", "alpha", "std"):
        if hasattr(attack, name):
            real(attack, name, positive=name == "alpha")
    for name, least in (("steps", 0), ("eot_iter", 1), ("n_restarts", 1), ("n_queries", 1)):
        if hasattr(attack, name):
            whole(attack, name, least)


def real(attack: Any, name: str, *, positive: bool) -> None:
    """A finite number, not negative, not 0 where it must be positive."""
    value = getattr(attack, name)
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: wanted a number, got {value!r}")
    if not 0 <= float(value) < math.inf or (positive and value == 0):
        raise ValueError(f"{name}: wanted a finite number {'> 0' if positive else '>= 0'}, got {value!r}")


def whole(attack: Any, name: str, least: int) -> None:
    value = getattr(attack, name)
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}: wanted a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name}: wanted a whole number >= {least}, got {value!r}")
