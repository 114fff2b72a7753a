"""zero_mean_step in plain torch: zero_mean_step.h, with the mean taken off before anything is squared."""

from __future__ import annotations

import torch
from torch import Tensor

from .backend import Scalar
from .reference_noise import sample_sum
from .reference_steps import add_inward, per_sample, power_of_two_scale, real_dtype, shrink_to


def _mean(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of each sample as the sum of two: its first entry, and the mean of what is left without that."""
    pivot = x.reshape(x.shape[0], -1)[:, 0].reshape(-1, *[1] * (x.dim() - 1))
    return pivot, sample_sum(x - pivot) / x[0].numel()


def _split(pivot: Tensor, rest: Tensor, real: torch.dtype) -> tuple[Tensor, Tensor]:
    """pivot + rest as the sum of two of type ``real``."""
    high = (pivot + rest).to(real)
    return high, ((pivot - high.double()) + rest).to(real)


def _mean_is_zero(adv: Tensor, origin: Tensor, delta: Tensor) -> Tensor:
    """Whether the sum of delta is 0 to the spacing of the storage."""
    limits = torch.finfo(adv.dtype)
    size = sample_sum(adv.double().abs() + origin.double().abs()) + adv[0].numel() * limits.smallest_normal
    wide = adv.dtype in (torch.float32, torch.float64)  # the arithmetic rounds as coarsely as the storage
    return sample_sum(delta).abs() <= limits.eps * (2 if wide else 1) * size


def zero_mean_step(adv: Tensor, grad: Tensor | None, origin: Tensor, eps: Scalar, step: Scalar) -> None:
    real = real_dtype(adv.dtype)
    a, o = adv.to(real), origin.to(real)
    g = torch.zeros_like(a) if grad is None else grad.to(real)
    d = a - o
    e = per_sample(eps, adv, torch.float64)
    size = per_sample(0.0 if grad is None else step, adv, torch.float64)
    one = torch.ones_like(e)
    scale_g, scale_d = (power_of_two_scale(g), power_of_two_scale(a, o)) if real is torch.float64 else (one, one)
    gs, ds = g.double() * scale_g, d.double() * scale_d
    (pivot_g, rest_g), (pivot_d, rest_d) = _mean(gs), _mean(ds)
    gc, dc = (gs - pivot_g) - rest_g, (ds - pivot_d) - rest_d
    gg, dg, dd = sample_sum(gc * gc), sample_sum(dc * gc), sample_sum(dc * dc)
    length = gg.sqrt()
    coefficient = torch.where(length == 0, 0.0, size / length)
    unit = coefficient * scale_d
    after = (dd + 2 * unit * dg + unit * unit * gg).clamp(min=0).sqrt() / scale_d
    shrink = shrink_to(after, e).to(real)
    move = (gc * coefficient).to(real)
    high, low = _split(pivot_d / scale_d, rest_d / scale_d, real)
    value = add_inward(o, shrink * (((d - high) - low) + move), adv.dtype)
    still = (coefficient == 0) & (shrink == 1) & _mean_is_zero(adv, origin, d)
    adv.copy_(torch.where(still, a, value).to(adv.dtype))
