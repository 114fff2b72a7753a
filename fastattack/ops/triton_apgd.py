"""Launches of kernels/apgd_step.py."""

from __future__ import annotations

import torch
from torch import Tensor

from . import triton_steps as t
from .backend import Bounds, Scalar
from .reference_apgd import previous_used


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
    k, layout = t._kernels(), t._layout(*t._with_mask(adv, previous, grad, origin, mask=mask))
    images = (adv, previous, grad, origin, t._bytes(mask))
    numbers = (*t._number(eps), *t._number(step), *t._number(momentum), *bounds)
    if norm == "linf":
        blocks = t._blocks(layout)
        t._launch(k.apgd_step_linf, layout.batch * blocks, adv, *images, *numbers, *t._walk(layout, blocks))
        return
    tiles = t._tiles(layout)
    largest: tuple[Tensor | None, Tensor | None] = (None, None)
    if adv.dtype is torch.float64:
        before = previous_used(adv, previous, momentum)
        if mask is not None:
            before = before.where(mask, 0)
        top, lagging = t._largest(adv, origin), t._largest(before)
        assert top is not None, "float64 has a scale"
        assert lagging is not None, "float64 has a scale"
        largest = (t._largest(grad, mask=mask), torch.maximum(top, lagging))
    sums, squares = t._partials(adv, layout.batch, 6, tiles), t._partials(adv, layout.batch, 1, tiles)
    walk, programs = t._walk(layout, tiles), layout.batch * tiles
    t._launch(k.apgd_step_sums, programs, adv, *images, *largest, sums, *t._number(momentum), *walk)
    t._launch(k.apgd_step_measure, programs, adv, *images, *largest, sums, squares, *numbers, *walk)
    t._launch(k.apgd_step_l2, programs, adv, *images, *largest, sums, squares, *numbers, *walk)
