"""Median smoothing: certified bounds of each output pixel of a denoiser, or of any model from images to images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..guard import left_as_found
from ..ops import check
from .bounds import count, order_above, order_below, share
from .copies import ESTIMATE, Copies, checked, image_ids, seed_of_stage
from .image import collect, ndtr, radii_of
from .noise import Gaussian, image_level


@dataclass(frozen=True)
class MedianSmoothing:
    """The median of each output pixel over noisy inputs, and where it stays whatever moves the input by eps.

    Attributes:
        median: (B, ...) the sample median.
        low, high: (R, B, ...) the true median of every input within the r-th eps lies between.
        eps: the l2 radii.
        failure: the probability, for each radius, that any pixel of an image (not ``simultaneous``: a pixel) does not.
        sigma, n: of the noise, and copies.
    """

    median: Tensor
    low: Tensor
    high: Tensor
    eps: tuple[float, ...]
    failure: float
    sigma: float
    n: int

    @property
    def deviation(self) -> Tensor:
        """(R, B, ...): how far a pixel can come from ``median`` at most."""
        return torch.maximum(self.high - self.median, self.median - self.low)

    @property
    def rms(self) -> Tensor:
        """(R, B): root mean square over the pixels of `deviation`: no output is farther from ``median``."""
        return self.deviation.flatten(2).double().square().mean(2).sqrt()

    def worst_psnr(self, clean: Tensor) -> Tensor:
        """(R, B) dB: no output comes out worse beside the clean images (B, ...), in [0, 1]."""
        check.require_alike("median", self.median, ("clean", clean))
        worst = torch.maximum((self.high - clean).abs(), (self.low - clean).abs())
        return -10 * worst.flatten(2).double().square().mean(2).log10()


def median_smoothing(
    model: Callable[[Tensor], Any],
    x: Tensor,
    *,
    sigma: float,
    eps: float | Sequence[float],
    n: int = 1_000,
    alpha: float = 0.001,
    simultaneous: bool = True,
    seed: int = 0,
    sample_ids: Tensor | None = None,
    max_batch: int | None = None,
    backend: str = "auto",
) -> MedianSmoothing:
    """Certified bounds of each pixel of the smoothed output, h(x) = median of model(x + N(0, sigma^2)).

    For |delta|_2 <= eps the median at x + delta lies between the quantiles ndtr(-eps / sigma) and ndtr(eps / sigma) at
    x (Chiang et al., arXiv 2007.03495, lemma 1); order statistics of n copies bound these, by the exact binomial. What
    is certified is the true median; a sample median of a defence estimates it. The n outputs of one image are held at a
    time, n times its memory, and sorted in parts. The model is left as found.

    Args:
        model: (B, ...) -> (B, ...), each pixel a number by itself.
        x: (B, ...), finite, nominal range [0, 1].
        sigma: of the added noise, on that scale (10 / 255), at most 1; the images may hold noise of their own.
        eps: l2 radii of the perturbation of a whole image, on the scale of the images.
        n: copies.
        alpha: failure probability of all pixels of an image together (Bonferroni over both bounds of each) or, with
            ``simultaneous=False``, of each pixel alone. For each radius.
        seed, sample_ids, max_batch, backend: as for `fastattack.Smoothed`.

    Raises:
        ValueError: n too small for alpha at the largest eps, with the least n that is not; other arguments.
        NonFiniteError: the model gives NaN or infinity.
    """
    image_level(sigma, "sigma")
    radii = radii_of(eps)
    count(n, "n")
    share(alpha, "alpha")
    x = checked(x)
    ids, stage = image_ids(sample_ids, x), seed_of_stage(check.seed_of(seed), ESTIMATE)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    noise = Gaussian(sigma)
    with left_as_found(model, x.device, eval_mode=True):
        for image, name in zip(x, ids, strict=True):
            found = collect(model, Copies(noise, image[None], name[None], n, stage, backend), max_batch)
            each = alpha / (2 * found[0].numel() if simultaneous else 2)
            parts.append(_ordered(found, _places(n, radii, sigma, each)))
    median, low, high = (torch.stack([part[k] for part in parts], min(k, 1)) for k in range(3))
    return MedianSmoothing(median, low, high, tuple(radii), alpha, sigma, n)


def _places(n: int, radii: list[float], sigma: float, alpha: float) -> list[tuple[int, int]]:
    """(low, high) ranks, from 1, for each radius."""
    levels = [(ndtr(-radius / sigma), ndtr(radius / sigma)) for radius in radii]
    found = [(order_below(n, low, alpha), order_above(n, high, alpha)) for low, high in levels]
    if any(low < 1 or high > n for low, high in found):
        level = min(low for low, _ in levels)
        least = math.ceil(math.log(alpha) / math.log1p(-level)) if level > 0 else None
        wanted = "a smaller eps / sigma" if least is None else f"at least {least} copies"
        raise ValueError(
            f"n: wanted {wanted} for eps = {max(radii):g}, sigma = {sigma:g} and a failure probability of {alpha:.3g} "
            f"for each bound, got {n}"
        )
    return found


def _ordered(values: Tensor, places: list[tuple[int, int]], block: int = 2**22) -> tuple[Tensor, Tensor, Tensor]:
    """Median (...), low and high (R, ...) of (n, ...); sorted ``block`` numbers at a time."""
    n, flat = len(values), values.flatten(1)
    half = [(n - 1) // 2, n // 2]
    ranks = torch.tensor(half + [k - 1 for pair in places for k in pair], device=values.device)
    width = max(1, block // n)
    kept = torch.cat([part.sort(0).values[ranks] for part in torch.split(flat, width, 1)], 1)
    rows = kept.reshape(len(ranks), *values.shape[1:])
    return (rows[0] + rows[1]) / 2, rows[2::2], rows[3::2]
