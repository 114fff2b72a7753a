"""What the attacker may do, as data: callables for "project" and "clip" could never be fused into one kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .ops import check
from .ops.backend import Scalar

_NUMBER = torch.zeros(1)  # stands for the images in checks that come before there are any


@dataclass(frozen=True, kw_only=True)
class Threat:
    """The set of allowed inputs around the original one.

    Attributes:
        norm: "linf", "l2" or "l1".
        eps: radius on the scale of the images (5/255 for images in [0, 1]): a float or one for each sample, (B,).
            None: no ball, for attacks that look for the smallest perturbation; then ``norm`` is what they measure by.
        bounds: (low, high) that every pixel respects, or None. A noisy input leaves [0, 1] by nature, and a denoiser is
            trained on such inputs, so None is the default.
        preserve_noise: keep the mean and norm of the noise (needs the clean image; excludes bounds and masks).
        zero_mean: each sample's perturbation sums to zero (for "l2"; excludes bounds, masks and preserve_noise).
        grid: 8 or 16: the result lies on the grid k / (2^grid - 1), so that a PNG of that depth keeps every bit.
            Excludes preserve_noise and zero_mean; needs float32 or float64 images that have grid points in reach.
        sparsity: for "l1" alone: the share of the pixels that a step moves, in (0, 1], a float or (B,); None: 0.05.
    """

    norm: str = "linf"
    eps: float | Tensor | None
    bounds: tuple[float, float] | None = None
    preserve_noise: bool = False
    zero_mean: bool = False
    grid: int | None = None
    sparsity: float | Tensor | None = None

    def __post_init__(self) -> None:
        check.require_norm(self.norm, check.BALLS)
        if self.eps is None:
            self._check_no_ball()
        else:
            radius = check.per_sample(self.eps, "eps", _like(self.eps), least=0.0)
            if largest(radius) == math.inf:
                raise ValueError("eps: wanted a finite radius, got inf")
        check.bounds_of(self.bounds, _NUMBER.dtype)
        if self.preserve_noise and self.bounds is not None:
            raise ValueError(
                "bounds: wanted None with preserve_noise=True (clipping would change the noise's mean and norm)"
            )
        if self.preserve_noise and self.norm == "l1":
            raise ValueError("norm: wanted 'linf' or 'l2' with preserve_noise=True, got 'l1'")
        if self.grid not in (None, 8, 16):
            raise ValueError(f"grid: wanted None, 8 or 16 (bits), got {self.grid!r}")
        if self.grid is not None and (self.preserve_noise or self.zero_mean):
            raise ValueError("grid: wanted None with preserve_noise or zero_mean (rounding would change mean and norm)")
        if self.sparsity is not None:
            if self.norm != "l1":
                raise ValueError(f"sparsity: wanted norm='l1' beside it, got {self.norm!r}")
            share_of(self, _like(self.sparsity))
        if self.zero_mean and (self.norm != "l2" or self.bounds is not None or self.preserve_noise):
            raise ValueError(
                "zero_mean: wanted norm='l2' without bounds and without preserve_noise beside it, "
                f"got norm={self.norm!r}, bounds={self.bounds}, preserve_noise={self.preserve_noise}"
            )

    def _check_no_ball(self) -> None:
        for name in ("preserve_noise", "zero_mean", "grid"):
            if getattr(self, name):
                raise ValueError(f"{name}: wanted a radius eps beside it, got eps=None")


def share_of(threat: Threat, like: Tensor) -> Scalar:
    """The sparsity as a checked Scalar in (0, 1] for the batch ``like``."""
    share = check.positive(0.05 if threat.sparsity is None else threat.sparsity, "sparsity", like)
    if largest(share) > 1:
        raise ValueError(f"sparsity: wanted a share in (0, 1], got {largest(share)}")
    return share


def largest(value: Scalar) -> float:
    return max(value.tolist(), default=0.0) if isinstance(value, Tensor) else value


def _like(value: object) -> Tensor:
    """A batch as long as ``value``: stands for the images in checks that come before there are any."""
    rows = value.dim() == 1 if isinstance(value, Tensor) else False
    return torch.zeros(len(value)) if rows else _NUMBER  # type: ignore[arg-type]
