"""Launches the Triton kernels of zero_mean_step. No arithmetic here, and no host sync."""

from __future__ import annotations

from torch import Tensor

from .backend import Scalar
from .triton_steps import _kernels, _largest, _launch, _layout, _number, _partials, _tiles, _walk


def zero_mean_step(adv: Tensor, grad: Tensor | None, origin: Tensor, eps: Scalar, step: Scalar) -> None:
    k = _kernels()
    if grad is None:  # a step of length 0 along anything
        grad, step = origin, 0.0
    layout = _layout(adv, grad, origin)
    tiles = _tiles(layout)
    largest = (_largest(grad), _largest(adv, origin))
    sums, pivots = _partials(adv, layout.batch, k.ZERO_MEAN_SUMS.value, tiles), _partials(adv, layout.batch, 2)
    images, walk, programs = (adv, grad, origin), _walk(layout, tiles), layout.batch * tiles
    _launch(k.zero_mean_sums, programs, adv, *images, *largest, sums, pivots, *walk)
    _launch(k.zero_mean_move, programs, adv, *images, *largest, sums, pivots, *_number(eps), *_number(step), *walk)
