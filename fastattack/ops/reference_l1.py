"""The solver behind the l1 ball and the choice behind l1_step_, in plain torch: l1_project.h and l1_step.h."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .backend import Bounds, Scalar
from .reference_noise import SHRINK_MARGIN, sample_sum
from .reference_steps import _write, add_inward, per_sample, real_dtype

ROUNDS = 32
GOAL = 2.0**-30


@dataclass(frozen=True)
class Sample:
    """The distances d = adv - origin of each sample and how far the bounds let it go, float64."""

    d: Tensor
    low: Tensor
    high: Tensor
    on: Tensor

    def sums(self, lam: Tensor) -> tuple[Tensor, Tensor]:
        """Sum |z - origin| at lam, and how many entries still move with it."""
        rest = (self.d.abs() - lam).clamp(min=0)
        moved = torch.copysign(rest, self.d)
        free = (rest > 0) & (moved > self.low) & (moved < self.high) & self.on
        size = moved.clamp(self.low, self.high).abs()
        return sample_sum(torch.where(self.on, size, 0.0)), sample_sum(free)

    def least(self) -> Tensor:
        zero = torch.zeros_like(self.d)
        return sample_sum(torch.where(self.on, zero.clamp(self.low, self.high).abs(), 0.0))

    def largest(self) -> Tensor:
        size = torch.where(self.on, self.d.abs(), 0.0).reshape(len(self.d), -1).amax(1)
        return size.reshape(-1, *[1] * (self.d.dim() - 1))


def threshold(sample: Sample, eps: Tensor) -> Tensor:
    """lambda of each sample: Newton's method between two ends, on the square root of the sum while that is far off."""
    lam = torch.zeros_like(eps)
    total, free = sample.sums(lam)
    largest, least, target = sample.largest(), sample.least(), eps * SHRINK_MARGIN
    lost = ~(~total.isnan() & (largest < torch.inf))
    stays, empty = total <= eps, least >= target
    done = lost | stays | empty
    lam = torch.where(lost, torch.nan, torch.where(~stays & empty, torch.inf, lam))
    outside, inside = torch.zeros_like(lam), largest
    merit_before, width_before = torch.full_like(lam, torch.inf), largest
    for turn in range(ROUNDS + 1):
        error = total - target
        done = done | ~(error.abs() > GOAL * target)
        outside = torch.where(~done & (error > 0), lam, outside)
        inside = torch.where(~done & ~(error > 0), lam, inside)
        merit, width = error.abs() * free, inside - outside
        slow = (merit > 0.5 * merit_before) & (width > 0.5 * width_before)
        newton = lam + error / free
        far = lam + 2 * (total / free) * (1 - (target / total).sqrt())
        use_far = (total > 2 * target) & (far > outside) & (far < inside)
        step = torch.where(use_far, far, newton)
        step = torch.where(~slow & (step > outside) & (step < inside), step, outside + 0.5 * width)
        between = (step > outside) & (step < inside)
        lam = torch.where(done, lam, torch.where(between, step, inside))
        done = done | ~between
        merit_before, width_before = merit, width
        if turn < ROUNDS:
            total, free = sample.sums(lam)
    return torch.where(done, lam, inside)


def narrowed_inward(x: Tensor, real: torch.dtype) -> Tensor:
    """The number of type ``real`` nearest to x >= 0 and not above it."""
    near = x.to(real)
    return torch.where(near.double() > x, torch.nextafter(near, torch.zeros_like(near)), near)


def chosen(grad: Tensor, on: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """The k-th largest |grad| of each sample, k = max(1, ceil(keep * entries that are on)), and how many reach it.

    Zeros are not counted. A NaN is the largest of all.
    """
    on = on.reshape(len(grad), -1)
    size = torch.where(on, grad.abs().reshape(len(grad), -1), -1.0)
    ordered = size.sort(1, descending=True).values
    entries = on.sum(1)
    rank = (keep.flatten() * entries).ceil().long().clamp(min=1)
    least = ordered.gather(1, rank[:, None] - 1).clamp(min=0)
    reach = ~(size < least) & (size != 0) & on
    shape = (-1, *[1] * (grad.dim() - 1))
    return least.reshape(shape), reach.sum(1).reshape(shape)


def l1_project(adv: Tensor, origin: Tensor, mask: Tensor | None, eps: Scalar, bounds: Bounds) -> None:
    real = real_dtype(adv.dtype)
    a, o = adv.to(real), origin.to(real)
    d, centre = (a - o).double(), o.double()
    on = torch.ones_like(adv, dtype=torch.bool) if mask is None else mask
    sample = Sample(d, bounds[0] - centre, bounds[1] - centre, on)
    lam = threshold(sample, per_sample(eps, adv, torch.float64).expand(len(adv), *[1] * (adv.dim() - 1)))
    rest = narrowed_inward((d.abs() - lam).clamp(min=0), real)
    moved = add_inward(o, torch.copysign(rest, a - o), adv.dtype)
    _write(adv, torch.where(lam == 0, a, moved), origin, mask, bounds)


def l1_step(
    adv: Tensor,
    grad: Tensor,
    origin: Tensor,
    mask: Tensor | None,
    eps: Scalar,
    step: Scalar,
    keep: Scalar,
    bounds: Bounds,
) -> None:
    real = real_dtype(adv.dtype)
    a, g = adv.to(real), grad.to(real)
    on = torch.ones_like(adv, dtype=torch.bool) if mask is None else mask
    share, length = (per_sample(v, adv, torch.float64).expand(len(adv), *[1] * (adv.dim() - 1)) for v in (keep, step))
    least, count = chosen(g, on, share)
    size = (length / count.clamp(min=1)).to(real)
    moved = a + torch.where(g > 0, size, torch.where(g < 0, -size, g))
    adv.copy_(torch.where((g.abs() < least) | (g == 0), a, moved).to(adv.dtype))
    l1_project(adv, origin, mask, eps, bounds)
