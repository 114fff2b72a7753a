"""MS-SSIM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .base import pair, require_positive, sample_mean
from .structure import WINDOW, terms

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the five scales, as published: the finest first
_FLOOR = 1e-6


def weights_of(scales: Any) -> tuple[float, ...]:
    """The published weights (None), or the first few of them, which then sum to 1."""
    if scales is None:
        return WEIGHTS
    if isinstance(scales, bool) or not isinstance(scales, int) or not 1 <= scales <= len(WEIGHTS):
        raise ValueError(f"scales: wanted None or a whole number from 1 to {len(WEIGHTS)}, got {scales!r}")
    if scales == len(WEIGHTS):
        return WEIGHTS  # whose sum is 1.0001 as published
    return tuple(w / sum(WEIGHTS[:scales]) for w in WEIGHTS[:scales])


def most_scales(shape: Sequence[int]) -> int:
    """How many of the five scales fit images (B, C, H, W); 0 where not even one does."""
    return min((min(shape[2:]) // WINDOW).bit_length(), len(WEIGHTS)) if len(shape) == 4 else 0


def check_size(name: str, shape: Sequence[int], scales: int) -> None:
    """Whether a window fits at the coarsest scale of images (B, C, H, W)."""
    least = WINDOW << scales - 1
    if len(shape) != 4 or min(shape[2:]) < least:
        fit = most_scales(shape)
        hint = f"; scales={fit} fits" if fit else ""
        raise ValueError(
            f"{name}: wanted images (B, C, H, W) of {least} x {least} at least for ms_ssim at {scales} "
            f"{'scale' if scales == 1 else 'scales'}, got {tuple(shape)}{hint}"
        )


def similarity(a: Tensor, b: Tensor, weights: Sequence[float], *, least: float, **constants: float) -> Tensor:
    """MS-SSIM (B,) of images (B, C, H, W); a scale's mean counts as ``least`` at least. ``constants``: of `terms`."""
    means = []
    for scale in range(len(weights)):
        if scale:
            a, b = functional.avg_pool2d(a, 2), functional.avg_pool2d(b, 2)
        luminance, contrast = terms(a, b, **constants)
        means.append(sample_mean(luminance * contrast if scale == len(weights) - 1 else contrast))
    powers = torch.stack(means).clamp(min=least) ** a.new_tensor(weights)[:, None]
    return powers.prod(0)


@dataclass(frozen=True, kw_only=True)
class ms_ssim:
    """1 - MS-SSIM of each sample (Wang, Simoncelli & Bovik, Asilomar 2003, equation 7).

    `fastattack.metrics.ms_ssim` as an objective, with one difference: a scale's term that is below 1e-6 counts as 1e-6
    there, so that a power of it has a finite slope. It has no gradient of its own then; those of other scales remain.

    Args:
        data_range: distance from black to white.
        scales: how many halvings of the image plus one: None, the published five, for which H and W must be 176 at
            least, or fewer, with the published weights of these made to sum to 1; 11 * 2 ** (scales - 1) pixels then.
        k1, k2: what keeps the quotients from 0 / 0, as shares of the data range.
    """

    data_range: float = 1.0
    scales: int | None = None
    k1: float = 0.01
    k2: float = 0.03

    def __post_init__(self) -> None:
        for name in ("data_range", "k1", "k2"):
            require_positive(getattr(self, name), name)
        weights_of(self.scales)

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        output, target = pair(output, target)
        weights = weights_of(self.scales)
        check_size("model", output.shape, len(weights))
        constants = {"data_range": self.data_range, "k1": self.k1, "k2": self.k2}
        return 1 - similarity(output, target, weights, least=_FLOOR, **constants)
