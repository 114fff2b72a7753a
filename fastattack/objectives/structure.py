"""SSIM."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import pair, require_positive, sample_mean

WINDOW = 11
_SIGMA = 1.5
_BELL = [math.exp(-0.5 * ((i - WINDOW // 2) / _SIGMA) ** 2) for i in range(WINDOW)]
_WEIGHTS = [w / sum(_BELL) for w in _BELL]


def _windowed(t: Tensor) -> Tensor:
    """Gaussian means over the windows that lie inside the image; (..., H, W) to (..., H - 10, W - 10)."""
    for dim in (-1, -2):  # slices, for cuDNN's convolutions run in TF32 by default: too coarse for variances
        count = t.shape[dim] - WINDOW + 1
        total = t.narrow(dim, 0, count) * _WEIGHTS[0]
        for i in range(1, WINDOW):
            total = torch.add(total, t.narrow(dim, i, count), alpha=_WEIGHTS[i])
        t = total
    return t


def terms(a: Tensor, b: Tensor, *, data_range: float, k1: float, k2: float) -> tuple[Tensor, Tensor]:
    """Luminance, and contrast times structure, of each window.

    (B, C, H, W) twice, of one floating dtype, to (B, C, H - 10, W - 10) twice; their product is the SSIM.
    """
    centre = b.mean((-2, -1), keepdim=True).detach()  # variances know no offset; without it they cancel fewer digits
    a, b = a - centre, b - centre
    mean_a, squares, product = _windowed(torch.stack((a, a * a + b * b, a * b))).unbind()
    mean_b = _windowed(b)  # apart: the target's needs no gradient
    spread = squares - mean_a * mean_a - mean_b * mean_b
    shared = product - mean_a * mean_b
    mean_a, mean_b = mean_a + centre, mean_b + centre
    c1, c2 = (k1 * data_range) ** 2, (k2 * data_range) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a * mean_a + mean_b * mean_b + c1)
    return luminance, (2 * shared + c2) / (spread + c2)


def similarity(a: Tensor, b: Tensor, *, data_range: float, k1: float, k2: float) -> Tensor:
    """The SSIM of each window: (B, C, H, W) twice, of one floating dtype, to (B, C, H - 10, W - 10)."""
    luminance, contrast = terms(a, b, data_range=data_range, k1=k1, k2=k2)
    return luminance * contrast


@dataclass(frozen=True, kw_only=True)
class ssim:
    """1 - SSIM of each sample (Wang et al., IEEE TIP 2004), the mean over channels.

    An 11 x 11 Gaussian window of sigma 1.5 wherever it fits, so images (B, C, H, W) want H, W >= 11. One minus it is
    skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False).

    Args:
        data_range: distance from black to white.
        k1, k2: what keeps the quotients from 0 / 0, as shares of the data range.
    """

    data_range: float = 1.0
    k1: float = 0.01
    k2: float = 0.03

    def __post_init__(self) -> None:
        for name in ("data_range", "k1", "k2"):
            require_positive(getattr(self, name), name)

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        output, target = pair(output, target)
        if output.dim() != 4 or min(output.shape[2:]) < WINDOW:
            raise ValueError(
                f"model: wanted images (B, C, H, W) of {WINDOW} x {WINDOW} at least for ssim, got {tuple(output.shape)}"
            )
        return 1 - sample_mean(similarity(output, target, data_range=self.data_range, k1=self.k1, k2=self.k2))
