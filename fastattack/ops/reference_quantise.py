"""quantise in plain torch: quantise.h."""

from __future__ import annotations

import torch
from torch import Tensor

from .backend import Bounds, Scalar
from .reference_steps import clip, per_sample


def _gap(v: Tensor, x: Tensor, origin: Tensor, radius: Tensor, bounds: Bounds) -> Tensor:
    """|v - x|, infinite where v is not allowed."""
    allowed = ((v - origin).abs() <= radius) & (v >= bounds[0]) & (v <= bounds[1])
    return torch.where(allowed, (v - x).abs(), float("inf"))


def quantise(
    adv: Tensor, origin: Tensor, mask: Tensor | None, norm: str, eps: Scalar, bits: int, bounds: Bounds
) -> None:
    levels = torch.full((), 2**bits - 1, dtype=adv.dtype, device=adv.device)  # CUDA multiplies by 1 / a plain number
    radius = per_sample(eps, adv, adv.dtype) if norm == "linf" else (adv - origin).abs()
    x = clip(adv, 0.0, 1.0)
    target = clip(clip(x, origin - radius, origin + radius), *bounds)
    k = (target * levels).round()
    # The answer is the rounded target or one of its neighbours; of two equally near the lower wins.
    best, least = torch.full_like(x, float("nan")), torch.full_like(x, float("inf"))
    for candidate in (k - 1, k, k + 1):
        v = candidate / levels
        gap = _gap(v, x, origin, radius, bounds)
        best, least = torch.where(gap < least, v, best), torch.where(gap < least, gap, least)
    adv.copy_(best if mask is None else torch.where(mask, best, origin))
