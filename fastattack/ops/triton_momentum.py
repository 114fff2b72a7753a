"""Launches the Triton kernels of momentum_step (kernels/momentum_step.py)."""

from __future__ import annotations

import torch
from torch import Tensor

from .backend import Bounds, Scalar
from .triton_steps import _bytes, _kernels, _largest, _launch, _layout, _number, _partials, _tiles, _walk, _with_mask


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
    k, layout = _kernels(), _layout(*_with_mask(adv, momentum, grad, origin, mask=mask))
    tiles, where = _tiles(layout), _bytes(mask)
    images = (adv, momentum, grad, origin, where)
    walk, programs = _walk(layout, tiles), layout.batch * tiles
    grad_largest = _largest(grad, mask=mask)
    magnitudes = _partials(adv, layout.batch, 1, tiles)
    alone = _layout(*_with_mask(grad, mask=mask))
    _launch(k.momentum_magnitudes, programs, adv, grad, where, grad_largest, magnitudes, *_walk(alone, tiles))
    numbers = (*_number(decay), *_number(eps), *_number(step), *bounds)
    if norm == "linf":
        _launch(k.momentum_linf, programs, adv, *images, grad_largest, magnitudes, *numbers, *walk)
        return
    largest = (_largest_momentum(momentum, grad_largest, mask, decay, layout.count), _largest(adv, origin))
    sums = _partials(adv, layout.batch, 3, tiles)
    _launch(k.momentum_sums, programs, adv, *images, grad_largest, magnitudes, *largest, sums, *_number(decay), *walk)
    layout = _layout(*_with_mask(adv, momentum, origin, mask=mask))
    along = (adv, momentum, origin, where, *largest, sums, *_number(eps), *_number(step), *bounds)
    _launch(k.pgd_step_l2, programs, adv, *along, *_walk(layout, tiles))


def _largest_momentum(
    momentum: Tensor, grad_largest: Tensor | None, mask: Tensor | None, decay: Scalar, count: int
) -> Tensor | None:
    """[B, tiles]: what no entry of the new momentum can exceed. float64 alone asks, and only for a power of two."""
    before = _largest(momentum, mask=mask)
    if before is None or grad_largest is None:
        return None
    factor = decay[:, None] if isinstance(decay, Tensor) else decay
    return before * factor + (grad_largest > 0).to(torch.float64) * count
