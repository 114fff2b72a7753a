"""How tensors of one shape are walked together: a batch of samples, each with at most four inner dimensions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

INNER_DIMS = 4
SHORT_RUN = 32  # elements of an innermost run below which starting a run costs more than working through it


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes and strides (in elements) that several tensors share.

    ``sizes`` are the four inner dimensions, innermost last, padded in front with ones. ``strides[k]`` holds, for tensor
    k, the batch stride and then the four inner strides. ``flat`` means that each sample of each tensor is one run of
    unit stride, whatever its memory format.
    """

    batch: int
    sizes: tuple[int, int, int, int]
    strides: tuple[tuple[int, int, int, int, int], ...]
    flat: bool

    @property
    def count(self) -> int:
        """Elements of one sample."""
        a, b, c, d = self.sizes
        return a * b * c * d


Merged = list[tuple[int, tuple[int, ...]]]  # (size, one stride per tensor), outermost first


def _merge(shape: torch.Size, all_strides: Sequence[tuple[int, ...]], dims: Iterable[int]) -> Merged:
    """The dimensions in the order given, neighbours merged where every tensor walks them as one."""
    merged: Merged = []
    for d in dims:
        size, strides = shape[d], tuple(s[d] for s in all_strides)
        if merged and all(outer == inner * size for outer, inner in zip(merged[-1][1], strides, strict=True)):
            merged[-1] = (merged[-1][0] * size, strides)
        else:
            merged.append((size, strides))
    return merged


def collapse(*tensors: Tensor, keep_order: bool = False) -> Layout | None:
    """Merge dimensions that all ``tensors`` (of one shape, (B, ...)) walk alike.

    With ``keep_order`` the walk is the logical row-major order, as counter-based random numbers need; otherwise it
    follows the memory of the first tensor, or of a later one where the runs of the first would be short (three pixels
    of channels_last beside contiguous tensors). None if more than four inner dimensions are left: the caller then
    copies.
    """
    first = tensors[0]
    shape, batch = first.shape, first.shape[0]
    if all(t.is_contiguous() for t in tensors):
        count = first.numel() // max(batch, 1)
        return Layout(batch, (1, 1, 1, count), ((count, 0, 0, 0, 1),) * len(tensors), True)
    all_strides = [t.stride() for t in tensors]
    dims = [d for d in range(1, len(shape)) if shape[d] != 1]
    merged = _merge(shape, all_strides, dims if keep_order else sorted(dims, key=lambda d: -all_strides[0][d]))
    if not keep_order and merged and merged[-1][0] < SHORT_RUN and len(merged) > 1:
        orders = [sorted(dims, key=lambda d, s=s: -s[d]) for s in all_strides]  # type: ignore[misc]
        merged = max((_merge(shape, all_strides, order) for order in orders), key=lambda m: m[-1][0])
    if len(merged) > INNER_DIMS:
        return None
    padded = [(1, (0,) * len(tensors))] * (INNER_DIMS - len(merged)) + merged
    a, b, c, d4 = (size for size, _ in padded)
    walks = tuple(
        (s[0], padded[0][1][k], padded[1][1][k], padded[2][1][k], padded[3][1][k]) for k, s in enumerate(all_strides)
    )
    flat = len(merged) <= 1 and all(d4 == 1 or w[4] == 1 for w in walks)
    return Layout(batch, (a, b, c, d4), walks, flat)
