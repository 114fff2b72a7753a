"""What an attack demands of the tensors that it is given. Each error names the argument."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .ops import check


def check_input(origin: Any, bounds: tuple[float, float] | None) -> None:
    """A batch of finite float images inside the bounds."""
    if not isinstance(origin, Tensor):
        raise TypeError(f"input: wanted a tensor, got {type(origin).__name__}")
    check.require_images(origin, "input")
    if origin.dim() < 2:
        raise ValueError(f"input: wanted a batch of samples (B, ...), got shape {tuple(origin.shape)}")
    if origin.numel() == 0:
        raise ValueError(f"input: wanted at least one sample, got shape {tuple(origin.shape)}")
    low, high = (v.item() for v in torch.aminmax(origin.detach()))
    if not (float("-inf") < low and high < float("inf")):
        raise ValueError("input: wanted finite numbers, got NaN or infinity")
    if bounds is not None and (low < bounds[0] or high > bounds[1]):
        raise ValueError(f"input: wanted values inside bounds {bounds}, got {low:g} to {high:g}")


def check_target(target: Any) -> None:
    """Finite, where it is a tensor of floats."""
    if isinstance(target, Tensor) and target.is_floating_point() and not bool(target.isfinite().all()):
        raise ValueError("target: wanted finite numbers, got NaN or infinity")


def check_clean(target: Any, origin: Tensor, mask: Tensor | None) -> Tensor:
    """The clean images that preserve_noise needs: like the input, and without a mask beside them."""
    if mask is not None:
        raise ValueError("mask: wanted None with preserve_noise=True (the projection moves every pixel)")
    if not isinstance(target, Tensor):
        raise TypeError(f"target: wanted the clean images with preserve_noise=True, got {type(target).__name__}")
    check.require_alike("the input", origin, ("target", target))
    return target


def dense(t: Tensor) -> Tensor:
    """Without gaps or overlaps in memory, so that clones keep its strides and slices of it stay flat."""
    if t.dim() <= 5 and (t.is_contiguous() or (t.dim() == 4 and t.is_contiguous(memory_format=torch.channels_last))):
        return t
    return t.contiguous()
