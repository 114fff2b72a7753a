"""Images of any size for a model of one size: overlapping tiles, blended with weights that sum to 1."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along an axis: evenly spread, the last one at the end, overlapping by ``overlap`` at least."""
    if length <= tile:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    return [round(k * (length - tile) / (count - 1)) for k in range(count)]


@lru_cache(maxsize=64)  # a copy to the device waits for it
def _placed(length: int, tile: int, overlap: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # what is kept must do for autograd too
        return weights(length, tile, overlap).to(device, dtype)


def weights(length: int, tile: int, overlap: int) -> Tensor:
    """(tiles, tile) float64 weights of an axis: ramps where tiles overlap; over each pixel they sum to 1."""
    begin = starts(length, tile, overlap)
    size = min(length, tile)
    ramp = torch.minimum(torch.arange(1, size + 1), torch.arange(size, 0, -1)).clamp(max=overlap + 1).double()
    total = torch.zeros(length, dtype=torch.float64)
    for at in begin:
        total[at : at + size] += ramp
    return torch.stack([ramp / total[at : at + size] for at in begin])


def blended(
    function: Callable[[Tensor], Tensor], x: Tensor, *, tile: int | None, overlap: int, multiple: int, at_once: int
) -> Tensor:
    """``function`` of the tiles of x (B, C, H, W), put together again; differentiable.

    Args:
        function: (N, C, h, w) -> the same shape.
        tile: edge in pixels; None, or an image that is no larger: the whole image.
        overlap: pixels that neighbours share at least.
        multiple: of which the function wants h and w; what is missing is filled by repeating the border.
        at_once: tiles in a call.
    """
    height, width = x.shape[-2:]
    if tile is None or max(height, width) <= tile:
        return _padded(function, x, multiple)
    rows, columns = starts(height, tile, overlap), starts(width, tile, overlap)
    down, across = (_placed(length, tile, overlap, x.dtype, x.device) for length in (height, width))
    places = [(i, top, j, left) for i, top in enumerate(rows) for j, left in enumerate(columns)]
    out = torch.zeros_like(x)
    group = max(1, at_once // max(1, len(x)))
    for first in range(0, len(places), group):
        here = places[first : first + group]
        found = _padded(function, torch.cat([x[..., t : t + tile, s : s + tile] for _, t, _, s in here]), multiple)
        for (i, top, j, left), part in zip(here, torch.split(found, len(x)), strict=True):
            window = down[i][:, None] * across[j]
            out[..., top : top + tile, left : left + tile] += part * window
    return out


def _padded(function: Callable[[Tensor], Tensor], x: Tensor, multiple: int) -> Tensor:
    height, width = x.shape[-2:]
    below, right = -height % multiple, -width % multiple
    if not below and not right:
        return function(x)
    return function(functional.pad(x, (0, right, 0, below), mode="replicate"))[..., :height, :width]
