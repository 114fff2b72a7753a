"""momentum_step on the cuda and cupy backends: the struct `MomentumStep` of csrc/cuda/momentum_step.cuh."""

from __future__ import annotations

import torch
from torch import Tensor

from .backend import Bounds, Scalar
from .launch import Launcher, doubles, per_sample, samples, scale_of, scale_words
from .reference_steps import per_sample as beside
from .reference_steps import power_of_two_scale, sample_max

_STEP_SUMS = 3  # doubles in StepSums


def momentum_step(
    launcher: Launcher,
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
    limits = [*per_sample(eps), *per_sample(step)]
    box = [*map(float, bounds)]
    exact = adv.dtype is torch.float64
    free = grad if mask is None or not exact else grad.where(mask, 0)
    grad_scale, delta_scale = scale_of(free), scale_of(adv, origin)
    momentum_scale = _scale_of_next(momentum, free, mask, decay) if exact else None
    with samples(momentum, adv, grad, origin, mask=mask, summed=True) as at:
        magnitudes = doubles(adv, at.batch * at.tiles)
        partials = doubles(adv, at.batch * at.tiles * _STEP_SUMS)
        words = [*limits, *per_sample(decay), *box]
        words += [*scale_words(grad_scale), *scale_words(momentum_scale), *scale_words(delta_scale)]
        words += [magnitudes.data_ptr(), partials.data_ptr()]
        if norm == "linf":
            launcher.run(adv, at, words, "momentum_step", "magnitudes", "linf")
            return
        launcher.run(adv, at, words, "momentum_step", "magnitudes", "sums")
    with samples(adv, momentum, origin, mask=mask, summed=True) as at:
        words = [*limits, *box, *scale_words(momentum_scale), *scale_words(delta_scale), partials.data_ptr()]
        launcher.run(adv, at, words, "pgd_step", "l2")


def _scale_of_next(momentum: Tensor, grad: Tensor, mask: Tensor | None, decay: Scalar) -> Tensor:
    """(B,): a power of two from what no entry of the new momentum can exceed."""
    before = momentum if mask is None else momentum.where(mask, 0)
    added = (sample_max(grad.abs()) > 0).double() * grad[0].numel()
    return power_of_two_scale(sample_max(before.abs()) * beside(decay, grad, torch.float64) + added).reshape(-1)
