"""Typicality of noise and the radial spectrum of images (arXiv 2412.05943)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..ops import check, noise_stats
from ..ops.spectrum import band_of, multiplicity


def typicality_gap(noise: Tensor, *, sigma: float | Tensor, mean: float | Tensor = 0.0) -> Tensor:
    """tau = 1/2 (|n - mean|^2 / (d sigma^2) - 1) of each sample (B, ...) under N(mean, sigma^2), in nats per pixel.

    Args:
        noise: (B, ...) float.
        sigma, mean: of the noise model, a number or (B,); sigma > 0.

    Returns:
        (B,): float64 for float64 noise, else float32.

    Raises:
        TypeError, ValueError: an argument that does not fit; the message names it.
    """
    gap = noise_stats(noise, sigma=sigma, mean=mean).typicality
    assert gap is not None  # a sigma was given
    return gap


def in_typical_set(noise: Tensor, *, sigma: float | Tensor, eps: float | Tensor, mean: float | Tensor = 0.0) -> Tensor:
    """(B,) bool: whether |tau| <= eps, which makes a sample eps-typical. NaN in a sample: False.

    Args:
        noise, sigma, mean: as for `typicality_gap`.
        eps: half width of the set in nats per pixel, a number or (B,), >= 0; `expected_spread` gives its scale.

    Raises:
        TypeError, ValueError: an argument that does not fit; the message names it.
    """
    gap = typicality_gap(noise, sigma=sigma, mean=mean)
    return gap.abs() <= check.per_sample(eps, "eps", gap, least=0.0)


def expected_spread(size: int | Tensor) -> float:
    """1 / sqrt(2 d): the standard deviation of tau under the model, in nats per pixel.

    Args:
        size: d, the number of elements of one sample, or a batch (B, ...) of such samples.

    Raises:
        TypeError, ValueError: neither of them.
    """
    if isinstance(size, Tensor):
        check.require_images(size, "size")
        size = size[0].numel() if len(size) else 0
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"size: wanted a number of elements or a batch of samples, got {type(size).__name__} {size!r}")
    if size < 1:
        raise ValueError(f"size: wanted at least one element a sample, got {size}")
    return 1 / math.sqrt(2 * size)


def radial_spectrum(x: Tensor, *, bands: int = 16) -> Tensor:
    """Mean power in each radial band, relative to white noise of the same energy: white is 1 everywhere.

    The bands have equal widths from 0 to sqrt(1/2) cycles per pixel. The zero frequency is left out: it is the mean.

    Args:
        x: (..., H, W) float; leading dimensions are averaged over.
        bands: each must hold a frequency of an H x W image.

    Returns:
        (bands,) float64 on the CPU; its mean over all frequencies is 1.

    Raises:
        TypeError, ValueError: x is no image, constant or not finite, or too small for so many bands.
    """
    check.require_images(x, "x")
    power, count = band_power(x, bands, "x")
    return relative_to_white(power, count, "x")


def band_power(x: Tensor, bands: int, name: str) -> tuple[Tensor, Tensor]:
    """Power and number of the frequencies in each band, (bands,) float64, summed over the leading dimensions."""
    if x.dim() < 2 or x.numel() == 0:
        raise ValueError(f"{name}: wanted images (..., H, W), got shape {tuple(x.shape)}")
    if isinstance(bands, bool) or not isinstance(bands, int) or bands < 1:
        raise ValueError(f"bands: wanted a whole number >= 1, got {bands!r}")
    height, width = x.shape[-2:]
    power = torch.fft.rfft2(x.detach().cpu().double(), norm="ortho").abs().square().reshape(-1, height, width // 2 + 1)
    weight = multiplicity(height, width).expand(height, -1).clone()
    weight[0, 0] = 0
    band = band_of(height, width, bands).flatten()
    count = torch.zeros(bands, dtype=torch.float64).index_add_(0, band, weight.flatten())
    if (count == 0).any():
        empty = int((count == 0).nonzero()[0])
        raise ValueError(f"bands: wanted fewer than {bands} for {height} x {width} pixels; band {empty} is empty")
    total = torch.zeros(bands, dtype=torch.float64).index_add_(0, band, (weight * power.sum(0)).flatten())
    return total, count * len(power)


def relative_to_white(power: Tensor, count: Tensor, name: str) -> Tensor:
    level = power.sum() / count.sum()
    if not 0 < level.item() < math.inf:
        raise ValueError(f"{name}: wanted finite images that are not constant, got a mean power of {level.item():g}")
    return power / count / level
