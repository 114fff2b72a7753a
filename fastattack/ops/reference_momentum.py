"""What a step adds to the momentum, on (B, 1, ...) numbers per sample: momentum_step.h in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from .backend import Bounds, Scalar
from .reference_noise import sample_sum
from .reference_steps import per_sample, pgd_step, power_of_two_scale, real_dtype


def unit_of(grad: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The two factors that bring the mean of |grad| to 1; ``scale`` keeps the sum of float64 data in range."""
    mean = sample_sum((grad.double() * scale).abs()) / grad[0].numel()
    if grad.dtype is torch.float64:
        return scale, torch.where(mean == 0, 0.0, 1 / mean)
    one = torch.ones_like(mean)
    k = -torch.frexp(mean).exponent.clamp(-126, 126)
    second = torch.where(mean == 0, 0.0, torch.ldexp(one, -k) / mean)
    return torch.ldexp(one, k).float(), second.float()


def next_momentum(momentum: Tensor, grad: Tensor, decay: Tensor, scale: Tensor) -> Tensor:
    """Before it is rounded to its storage type."""
    first, second = unit_of(grad, scale)
    return decay * momentum + (grad * first) * second


def stored(momentum: Tensor, storage: torch.dtype) -> Tensor:
    """In its storage type; in float16 what is beyond its range stays at the largest number."""
    limit = torch.finfo(storage).max if storage is torch.float16 else float("inf")
    return momentum.clamp(-limit, limit).to(storage)


def momentum_step(
    adv: Tensor,
    momentum: Tensor,
    grad: Tensor,
    origin: Tensor,
    mask: Tensor | None,
    norm: str,
    eps: Scalar,
    step: Scalar,
    decay: Scalar,
    bounds: Bounds,
) -> None:
    real = real_dtype(adv.dtype)
    g = grad.to(real) if mask is None else torch.where(mask, grad.to(real), 0)
    factor = per_sample(decay, adv, real)
    scale = power_of_two_scale(g) if real is torch.float64 else torch.ones_like(factor, dtype=torch.float64)
    after = next_momentum(momentum.to(real), g, factor, scale)
    momentum.copy_(stored(after, momentum.dtype))
    # A sign can be taken before rounding makes a small number 0; a norm is that of what is stored.
    pgd_step(adv, after if norm == "linf" else momentum, origin, mask, norm, eps, step, bounds)
