"""Centre smoothing: how far the output of a model from images to images can move as a whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..guard import left_as_found
from ..ops import check
from .batches import outputs
from .bounds import count, order_above, share, statistics
from .copies import CENTRE, SPREAD, Copies, checked, image_ids, seed_of_stage
from .image import collect, ndtr, ndtri, radii_of
from .noise import Gaussian, image_level
from .norms import exponent

Distance = Callable[[Tensor, Tensor], Tensor]
"""(m, ...) and (...) -> (m,): of each output to one of them."""


@dataclass(frozen=True)
class CentreSmoothing:
    """The centre of a ball that holds half of the outputs, and how far it can move.

    Attributes:
        centre: (B, ...) one of the outputs.
        deviation: (R, B) float64: the centre of any input within the r-th eps is no farther, in the distance.
        ball: (R, B) float64 radius about the centre that holds the needed share of the outputs.
        eps: the l2 radii.
        failure: see `centre_smoothing`.
        sigma, m, n: of the noise, and copies of the centre and of the distances.
    """

    centre: Tensor
    deviation: Tensor
    ball: Tensor
    eps: tuple[float, ...]
    failure: float
    sigma: float
    m: int
    n: int


def centre_smoothing(
    model: Callable[[Tensor], Any],
    x: Tensor,
    *,
    sigma: float,
    eps: float | Sequence[float],
    distance: str | float | Distance = "l2",
    m: int = 300,
    n: int = 2_000,
    alpha: float = 0.001,
    seed: int = 0,
    sample_ids: Tensor | None = None,
    max_batch: int | None = None,
    backend: str = "auto",
) -> CentreSmoothing:
    """A certified distance by which the smoothed output as a whole can move (Kumar & Goldstein, arXiv 2102.09701).

    The smoothed output is, of the outputs for m noisy copies, the one whose median distance to the others is least.
    With R such that a ball of radius R about it holds, at x, the share ndtr(ndtri(q) + eps / sigma) of all outputs, the
    output at any x' within eps is at most 3 R away: there the ball holds the share q, so, but for alpha, more than half
    of the m copies of x', so some output has half of them within 2 R; and two halves meet. R comes from n further
    copies, whose distances alone are kept, by an exact order statistic; q is exact for m. (The paper has Hoeffding's
    bounds and a check at x' instead.)

    It holds with probability 1 - 2 alpha, over the copies at x and those at x', for an x' that was chosen without
    knowing the copies that will be drawn there. So call it at x' with another ``seed``: with the same one and the same
    ids x' gets the very copies of x, and the probability is not the stated one. The m outputs of one image are held at
    a time. The model is left as found.

    Args:
        model: (B, ...) -> (B, ...) of any shape.
        x, sigma, eps, seed, sample_ids, max_batch, backend: as for `median_smoothing`.
        distance: "l1", "l2", "linf" or p of an output as a whole, or a function ((k, ...), (...)) -> (k,): a metric.
            The triangle inequality is used (a squared distance, or 1 - SSIM, has none).
        m, n: copies.
        alpha: failure probability at x, and again at x'; for each radius.

    Raises:
        ValueError: m or n too small for alpha at the largest eps; other arguments.
        NonFiniteError: the model gives NaN or infinity.
    """
    image_level(sigma, "sigma")
    radii = radii_of(eps)
    count(m, "m", 2)
    count(n, "n")
    share(alpha, "alpha")
    measure = _distance(distance)
    ranks = _needed(m, n, radii, sigma, alpha)
    x, number = checked(x), check.seed_of(seed)
    ids = image_ids(sample_ids, x)
    first, second = (seed_of_stage(number, stage) for stage in (CENTRE, SPREAD))
    noise = Gaussian(sigma)
    centres, balls = [], []
    with left_as_found(model, x.device, eval_mode=True):
        for image, name in zip(x, ids, strict=True):
            held = collect(model, Copies(noise, image[None], name[None], m, first, backend), max_batch)
            centre = held[_least_median(held, measure)]
            fresh = Copies(noise, image[None], name[None], n, second, backend)
            away = torch.cat([_measured(measure, part, centre) for _, part in outputs(model, fresh, max_batch)])
            centres.append(centre)
            balls.append(away.sort().values[torch.tensor(ranks, device=away.device) - 1])
    ball = torch.stack(balls, 1)
    return CentreSmoothing(torch.stack(centres), 3 * ball, ball, tuple(radii), 2 * alpha, sigma, m, n)


def _distance(distance: str | float | Distance) -> Distance:
    if callable(distance):
        return distance
    p = exponent(distance, "distance")
    return lambda many, one: torch.linalg.vector_norm((many - one).flatten(1).double(), p, dim=1)


def _measured(measure: Distance, many: Tensor, one: Tensor) -> Tensor:
    found = measure(many, one)
    if not isinstance(found, Tensor) or found.shape != many.shape[:1]:
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"distance: wanted one number for each of {len(many)} outputs, got {got}")
    if not bool((found >= 0).all()):
        raise ValueError(f"distance: wanted numbers >= 0, got {float(found.min()):g}")
    return found.detach().double()


def _least_median(held: Tensor, measure: Distance) -> int:
    """Which output has half of all, itself among them, in the smallest ball."""
    half = (len(held) + 1) // 2
    reach = [_measured(measure, held, one).kthvalue(half).values for one in held]
    return int(torch.stack(reach).argmin())


def _needed(m: int, n: int, radii: list[float], sigma: float, alpha: float) -> list[int]:
    """The rank, from 1, of the distance that bounds the ball, for each radius."""
    more = m // 2 + 1  # with ceil(m / 2) in the other ball these are more than m
    q = float(statistics().beta.ppf(1 - alpha, more, m - more + 1))  # P(Binomial(m, q) >= more) = 1 - alpha
    found = []
    for radius in radii:
        level = ndtr(ndtri(q) + radius / sigma) if q < 1 else 1.0
        rank = order_above(n, level, alpha)
        if rank > n:
            least = math.ceil(math.log(alpha) / math.log(level)) if 0 < level < 1 else None
            wanted = "a larger m, or a smaller eps / sigma" if least is None else f"at least {least} copies"
            raise ValueError(
                f"n: wanted {wanted} for eps = {radius:g}, sigma = {sigma:g}, m = {m} and alpha = {alpha:g}, got {n}"
            )
        found.append(rank)
    return found
