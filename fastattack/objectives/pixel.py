"""Distances of images, pixel by pixel: (B, ...) and (B, ...) to (B,)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import pair, require_positive, sample_mean


def mse(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over each sample; the loss of denoising-PGD (arXiv 2306.16050)."""
    output, target = pair(output, target)
    return sample_mean((output - target).square())


def mae(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error over each sample."""
    output, target = pair(output, target)
    return sample_mean((output - target).abs())


@dataclass(frozen=True, kw_only=True)
class charbonnier:
    """Mean of sqrt(d² + epsilon²) over each sample: the absolute error, smooth at 0 (Charbonnier et al., ICIP 1994).

    Args:
        epsilon: where it turns from square to absolute, on the scale of the images.
    """

    epsilon: float = 1e-3

    def __post_init__(self) -> None:
        require_positive(self.epsilon, "epsilon")

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        output, target = pair(output, target)
        difference = output - target
        return sample_mean(torch.hypot(difference, difference.new_full((), self.epsilon)))  # epsilon² may underflow


@dataclass(frozen=True, kw_only=True)
class psnr:
    """Minus the PSNR in dB of each sample. Equal images give -limit and the gradient 0, where PSNR is infinite.

    10 log10(mse / data_range² + 10^(-limit / 10)): 60 dB under the limit the value is off by 4e-6 dB.

    Args:
        data_range: distance from black to white.
        limit: PSNR of equal images, in dB.
    """

    data_range: float = 1.0
    limit: float = 100.0

    def __post_init__(self) -> None:
        require_positive(self.data_range, "data_range")
        require_positive(self.limit, "limit")
        if self.limit > 300:
            raise ValueError(f"limit: wanted at most 300 dB (float32 ends there), got {self.limit!r}")

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        output, target = pair(output, target)
        error = sample_mean(((output - target) / self.data_range).square())
        return 10 * (error + 10 ** (-self.limit / 10)).log10()
