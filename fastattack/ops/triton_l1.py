"""l1_project and l1_step of the triton backend: kernels/l1_project.py and l1_step.py."""

from __future__ import annotations

import torch
from torch import Tensor

from .backend import Bounds, Scalar
from .triton_steps import _bytes, _kernels, _launch, _layout, _number, _partials, _tiles, _walk, _with_mask

_DIGITS = {torch.float32: 4, torch.float64: 8, torch.float16: 3, torch.bfloat16: 2}  # as in l1_step.h


def l1_project(adv: Tensor, origin: Tensor, mask: Tensor | None, eps: Scalar, bounds: Bounds) -> None:
    k, layout = _kernels(), _layout(*_with_mask(adv, origin, mask=mask))
    images = (adv, origin, _bytes(mask))
    tiles = _tiles(layout)
    walk, programs = _walk(layout, tiles), layout.batch * tiles
    first = _partials(adv, layout.batch, k.L1_FIRST.value, tiles)
    _launch(k.l1_sums, programs, adv, *images, first, *bounds, *walk)
    # A round reads what the one before wrote, and writes the other buffer.
    states = _partials(adv, 2, layout.batch, k.L1_STATE.value)
    sums = _partials(adv, 2, layout.batch, k.L1_SUMS.value, tiles)
    before: tuple[Tensor | None, ...] = (first, None, None)
    after = (states[0], sums[0])
    for turn in range(k.L1_ROUNDS.value):
        after = (states[turn % 2], sums[turn % 2])
        _launch(k.l1_round, programs, adv, *images, *before, *after, *_number(eps), *bounds, *walk)
        before = (None, *after)
        if not adv.is_cuda and bool((after[0][:, k.L1_STATE.value - 1] != 0).all()):
            break  # the interpreter: nothing to wait for, and a launch that does nothing takes it 50 ms
    _launch(k.l1_apply, programs, adv, *images, *after, *bounds, *walk)


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
    k, layout = _kernels(), _layout(*_with_mask(grad, mask=mask))
    digits, width = _DIGITS[adv.dtype], 64 if adv.dtype is torch.float64 else 32
    bins = torch.zeros(digits, layout.batch, k.RADIX.value, dtype=torch.int64, device=adv.device)
    choices = torch.empty(digits, layout.batch, 4, dtype=torch.int64, device=adv.device)
    tiles = _tiles(layout)
    walk, programs = _walk(layout, tiles), layout.batch * tiles
    shifts = [width - 8 * (digit + 1) for digit in range(digits)]
    for digit, shift in enumerate(shifts):
        chain = (
            bins[digit - 1] if digit > 0 else None,
            choices[digit - 1] if digit > 1 else None,
            choices[digit] if digit > 0 else None,
            bins[digit],
        )
        _launch(k.l1_count, programs, adv, grad, _bytes(mask), *chain, *_number(keep), shift, *walk)
    layout = _layout(adv, grad)
    tiles = _tiles(layout)
    chain_end = (bins[digits - 1], choices[digits - 1])
    walk, programs = _walk(layout, tiles), layout.batch * tiles
    _launch(k.l1_move, programs, adv, adv, grad, *chain_end, *_number(step), shifts[-1], *walk)
    l1_project(adv, origin, mask, eps, bounds)
