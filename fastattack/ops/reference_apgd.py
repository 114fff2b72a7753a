"""apgd_step_ in plain torch: apgd_step.h, except that the l2 norm of the new point is always summed from its pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference_steps as r
from .backend import Bounds, Scalar
from .reference_noise import sample_sum


def previous_used(adv: Tensor, previous: Tensor, momentum: Scalar) -> Tensor:
    """adv where momentum is 1 and previous has no weight: it may hold anything then."""
    return torch.where(r.per_sample(momentum, adv, torch.float64) == 1, adv, previous)


def apgd_step(
    adv: Tensor,
    previous: Tensor,
    grad: Tensor,
    origin: Tensor,
    mask: Tensor | None,
    norm: str,
    eps: Scalar,
    step: Scalar,
    momentum: Scalar,
    bounds: Bounds,
) -> None:
    old = adv.clone()
    move = _linf if norm == "linf" else _l2
    moved = r.clip(move(adv, previous, grad, origin, mask, eps, step, momentum, bounds), *bounds).to(adv.dtype)
    adv.copy_(moved if mask is None else torch.where(mask, moved, origin))
    previous.copy_(old if mask is None else torch.where(mask, old, origin))


def _linf(
    adv: Tensor,
    previous: Tensor,
    grad: Tensor,
    origin: Tensor,
    mask: Tensor | None,
    eps: Scalar,
    step: Scalar,
    momentum: Scalar,
    bounds: Bounds,
) -> Tensor:
    real = r.real_dtype(adv.dtype)
    z = adv.clone()
    r.pgd_step(z, grad, origin, None, "linf", eps, step, bounds)
    x, o, z = adv.to(real), origin.to(real), z.to(real)
    rest = 1 - r.per_sample(momentum, adv, real)
    new = z + rest * ((x - previous.to(real)) - (z - x))
    return r.clip_to_ball_linf(torch.where(rest == 0, z, new), o, r.per_sample(eps, adv, real), adv.dtype)


def _l2(
    adv: Tensor,
    previous: Tensor,
    grad: Tensor,
    origin: Tensor,
    mask: Tensor | None,
    eps: Scalar,
    step: Scalar,
    momentum: Scalar,
    bounds: Bounds,
) -> Tensor:
    real, double = r.real_dtype(adv.dtype), torch.float64
    x, before, g, o = (t.to(real) for t in (adv, previous_used(adv, previous, momentum), grad, origin))
    difference, lag = x - o, x - before
    d, p, g = difference.double(), lag.double(), g.double()
    if mask is not None:
        d, p, g = (torch.where(mask, t, 0) for t in (d, p, g))
    radius, size, rest = (r.per_sample(v, adv, double) for v in (eps, step, momentum))
    rest = 1 - rest
    one = torch.ones_like(radius)
    wide = real is double
    scale_g, scale_d = (r.power_of_two_scale(g), r.power_of_two_scale(x, before, o)) if wide else (one, one)
    g = g * scale_g
    length = sample_sum(g * g).sqrt()
    u = d + torch.where(length == 0, 0.0, size / length) * g
    z = r.shrink_to(sample_sum((u * scale_d).square()).sqrt() / scale_d, radius) * u
    low, high = (b - o.double() for b in bounds)
    w = r.clip(z, low, high)
    w = w + rest * ((d + p) - w)
    inside = w if mask is None else torch.where(mask, w, 0)
    shrink = r.shrink_to(sample_sum((inside * scale_d).square()).sqrt() / scale_d, radius)
    moved = r.add_inward(o, (shrink * w).to(real), adv.dtype)
    return torch.where((w == d) & (shrink == 1), x, moved)
