"""Radii of any log-concave noise by Monte Carlo over the likelihood ratio.

**What is proven.** Let z have independent even log-concave numbers and let the input move by delta. Of all sets of
probability p the one that loses most by the move is {L <= t}, L(z) = log of the density after over that before (Neyman
and Pearson). For one number the family is ordered: a longer move is easier to detect at every level (monotone
likelihood ratio, so the best tests are half lines, and their power grows with the move). By Blackwell's theorem the
shorter move is a garbling of the longer one, and so are products of such pairs. Hence what the worst set keeps falls in
each |delta_i|, and the worst delta of the linf ball of radius r is (r, ..., r): one direction to look along. There a
threshold t from one sample, and exact binomial bounds from another of {L <= t} before and after the move, prove a
radius; all of a table together but for its failure probability. Ties are broken at random, as the lemma has it.

**What is not.** For l1, l2 and other norms the worst direction is not known for such a noise. The minimum over some
directions is an estimate from above, never a certificate. What is proven there is the linf radius, for |delta|_inf <=
|delta|_p.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .bounds import count, lower_bound, share, upper_bound
from .noise import Noise, noise_of
from .norms import Norm, exponent, length_of

RADII = 48
"""Of a table, up to where nothing can be certified, denser where they are small."""
PILOT = 10_000
_BLOCK = 2**16  # numbers at a time, for the cache
_REACH = 0.9995  # the probability that the largest radius of a table needs


@dataclass(frozen=True)
class RatioTable:
    """What probability each radius needs, along one direction.

    Attributes:
        radii: (R,), rising.
        needed: (R,) probability from which the radius is proven along the direction, inf for none; all rows together
            but for ``failure``.
        likely: (R,) the same without confidence bounds, an estimate.
        failure: the probability that a row of ``needed`` is wrong.
    """

    radii: Tensor
    needed: Tensor
    likely: Tensor
    failure: float

    def radius(self, p: Tensor, *, bounded: bool = True) -> Tensor:
        """The largest radius of the table that needs no more than p, or 0."""
        needs = self.needed if bounded else self.likely
        fits = needs.to(p.device) <= p[..., None].double()
        return torch.where(fits, self.radii.to(p.device), 0.0).amax(-1)


@dataclass(frozen=True)
class NumericRadius:
    """What Monte Carlo says of a radius.

    Attributes:
        proven: radii that hold but for ``failure``; of linf those of the worst direction, of another norm linf's.
        estimate: the least over ``directions`` without confidence bounds: no certificate, and for other norms than linf
            an estimate from above.
        worst: which of the directions gave the least.
        directions: those that were tried, in words.
        failure: of ``proven``, in addition to that of p.
    """

    proven: Tensor
    estimate: Tensor
    worst: str
    directions: tuple[str, ...]
    failure: float


def numeric_radius(
    noise: Noise,
    p: Tensor,
    *,
    norm: Norm,
    dim: int,
    samples: int = 40_000,
    failure: float = 1e-4,
    random_directions: int = 4,
    seed: int = 0,
) -> NumericRadius:
    """The radius of any log-concave noise in any lp norm: what is proven, and what Monte Carlo suggests.

    Args:
        noise: any `Noise`; those with closed forms too.
        p: (B,) lower bounds of the probability of the class, float64.
        norm: "l1", "l2", "linf" or a number p >= 1.
        dim: numbers of an input.
        samples: of the table along each direction.
        failure: the probability that ``proven`` is wrong although p is right.
        random_directions: normal vectors that are tried beside 1, 2, 4, ... equal entries.
        seed: of the samples.

    Raises:
        TypeError, ValueError: an argument that does not fit.
    """
    target = exponent(norm)
    count(dim, "dim")
    count(samples, "samples", 100)
    count(random_directions, "random_directions", 0)
    share(failure, "failure")
    p = torch.as_tensor(p, dtype=torch.float64)
    corner = ratio_table(noise_of(noise), torch.ones(dim), samples=samples, failure=failure, seed=seed)
    if math.isinf(target):
        names = (f"{dim} equal entries",)
        return NumericRadius(corner.radius(p), corner.radius(p, bounded=False), names[0], names, failure)
    tried = {}
    for name, entries in _directions(dim, target, random_directions, seed):
        table = ratio_table(noise, entries, samples=samples, failure=failure, seed=seed)
        tried[name] = table.radius(p, bounded=False)
    every = torch.stack(list(tried.values())).reshape(len(tried), -1)
    worst = list(tried)[int(every.mean(1).argmin())]
    return NumericRadius(corner.radius(p), every.amin(0).reshape(p.shape), worst, tuple(tried), failure)


def _directions(dim: int, norm: float, more: int, seed: int) -> list[tuple[str, Tensor]]:
    """(words, entries that are not 0) of unit vectors."""
    sizes = sorted({min(2**k, dim) for k in range(0, 2 * math.ceil(math.log2(dim) / 2) + 1)} | {dim})
    words = {1: "one entry"}
    found = [(words.get(k, f"{k} equal entries"), torch.full((k,), 1 / length_of(k, norm))) for k in sizes]
    generator = torch.Generator().manual_seed(seed)
    for k in range(more if dim > 1 else 0):
        vector = torch.randn(dim, generator=generator, dtype=torch.float64).abs()
        found.append((f"random direction {k}", vector / torch.linalg.vector_norm(vector, norm)))
    return found


@lru_cache(maxsize=64)
def linf_table(noise: Noise, dim: int) -> RatioTable:
    """The proven table of a `LogConcave` noise."""
    doubt, samples, seed = (getattr(noise, name) for name in ("doubt", "samples", "table_seed"))
    return ratio_table(noise, torch.ones(dim), samples=samples, failure=doubt, seed=seed)


def ratio_table(noise: Noise, direction: Tensor, *, samples: int, failure: float, seed: int) -> RatioTable:
    """The table along a direction, (k,) entries that are not 0, of a unit vector in whatever norm."""
    direction = direction.double()
    generator = torch.Generator().manual_seed(seed)
    end = _reach(noise, direction, generator)
    radii = end * torch.linspace(0, 1, RADII + 1, dtype=torch.float64)[1:] ** 1.5
    pilot, tie_pilot = _losses(noise, direction, radii, PILOT, generator)
    losses, tie = _losses(noise, direction, radii, samples, generator)
    alpha = failure / (2 * RADII)
    margin = 0.5 * -float(torch.special.ndtri(torch.tensor(alpha, dtype=torch.float64))) / math.sqrt(samples)
    margin += math.sqrt(1 / samples + 1 / PILOT)
    needed, likely = [], []
    for row, first, in_all in zip(losses, pilot, losses, strict=True):
        after, before = _hits(row, tie, _threshold(first, tie_pilot, 0.5 + margin))
        holds = float(lower_bound(after, samples, alpha)) >= 0.5
        needed.append(float(upper_bound(before, samples, alpha)) if holds else math.inf)
        likely.append(float(_hits(row, tie, _threshold(in_all, tie, 0.5))[1]) / samples)
    return RatioTable(radii, torch.tensor(needed).double(), torch.tensor(likely).double(), failure)


def _losses(
    noise: Noise, direction: Tensor, radii: Tensor, samples: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """L at moved noise, (R, samples), and what breaks ties, (samples,).

    L(z + delta) = sum potential(z_i + delta_i) - potential(z_i). By evenness L at noise that has not moved is
    distributed as -L here. Rounded to 9 decimals, so that what is equal but for rounding is equal.
    """
    found = []
    block = max(1, _BLOCK // len(direction))
    for first in range(0, samples, block):
        size = min(block, samples - first)
        u = torch.rand(size, len(direction), generator=generator, dtype=torch.float64).clamp(1e-16, 1 - 1e-16)
        z = noise.quantile(u)
        base = noise.potential(z).sum(1)
        found.append(torch.stack([noise.potential(z + r * direction).sum(1) - base for r in radii]))
    losses = torch.cat(found, 1)
    losses = torch.where(losses.isinf(), losses, torch.round(losses, decimals=9))
    return losses, torch.rand(samples, generator=generator, dtype=torch.float64)


def _threshold(losses: Tensor, tie: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """(L, tie) of the sample below or at which lies ``level`` of them."""
    rank = min(len(losses), math.ceil(level * len(losses)))
    t = torch.kthvalue(losses, rank).values
    return t, torch.kthvalue(tie[losses == t], rank - int((losses < t).sum())).values


def _hits(losses: Tensor, tie: Tensor, threshold: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """How many samples lie in {L <= t} after the move and before it."""
    t, cut = threshold
    after = (losses < t) | ((losses == t) & (tie <= cut))
    before = (-losses < t) | ((-losses == t) & (tie <= cut))
    return after.sum(), before.sum()


def _reach(noise: Noise, direction: Tensor, generator: torch.Generator) -> float:
    """A radius that needs nearly certainty, by bisection on a few samples of their own."""
    state = generator.get_state()

    def needs(r: float) -> float:
        generator.set_state(state)
        losses, tie = _losses(noise, direction, torch.tensor([r]), 2_000, generator)
        return float(_hits(losses[0], tie, _threshold(losses[0], tie, 0.5))[1]) / 2_000

    high = noise.scale / len(direction)
    while needs(high) < _REACH:
        high *= 2
    low = high / 2
    while needs(low) >= _REACH and low > 0:
        low, high = low / 2, low
    for _ in range(8):
        middle = (low + high) / 2
        low, high = (low, middle) if needs(middle) >= _REACH else (middle, high)
    return high
