"""apgd_step of the cuda and cupy backends: the struct ApgdStep of csrc/cuda/apgd_step.cuh, and its launches."""

from __future__ import annotations

import torch
from torch import Tensor

from . import launch
from .backend import Bounds, Scalar
from .reference_apgd import previous_used

SUMS = 6  # doubles in MomentumSums; SquareSum has one


def apgd_step(
    ops: launch.Launcher,
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
    l2 = norm == "l2"
    with launch.samples(adv, previous, grad, origin, mask=mask, summed=l2) as at:
        words = [w for number in (eps, step, momentum) for w in launch.per_sample(number)]
        words += map(float, bounds)
        if not l2:
            ops.run(adv, at, [*words, *launch.scale_words(None), *launch.scale_words(None), 0, 0], "apgd_step", "linf")
            return
        grad_scale = delta_scale = None
        if adv.dtype is torch.float64:
            before = previous_used(adv, previous, momentum)
            shown = (adv, before, grad) if mask is None else (t.where(mask, 0) for t in (adv, before, grad))
            inner, before, climbed = shown
            grad_scale, delta_scale = launch.scale_of(climbed), launch.scale_of(inner, before, origin)
        partials = launch.doubles(adv, at.batch * at.tiles * SUMS)
        squares = launch.doubles(adv, at.batch * at.tiles)
        words += [*launch.scale_words(grad_scale), *launch.scale_words(delta_scale)]
        words += [partials.data_ptr(), squares.data_ptr()]
        ops.run(adv, at, words, "apgd_step", "sums", "measure", "l2")
