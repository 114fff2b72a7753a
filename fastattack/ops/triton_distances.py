"""Launches the Triton kernels of distances. No arithmetic here, and no host sync."""

from __future__ import annotations

from torch import Tensor

from .triton_steps import _kernels, _launch, _layout, _partials, _tiles, _walk


def distances(a: Tensor, b: Tensor) -> Tensor:
    k, layout = _kernels(), _layout(a, b)
    tiles = _tiles(layout)
    sums, top = _partials(a, layout.batch, k.DISTANCE_SUMS.value, tiles), _partials(a, layout.batch, tiles)
    out = _partials(a, layout.batch, 4)
    _launch(k.distance_sums, layout.batch * tiles, a, a, b, sums, top, *_walk(layout, tiles))
    _launch(k.distance_finish, layout.batch, a, sums, top, out, layout.count, tiles)
    return out
