"""The shortest way onto a hyperplane inside a box, exact, in float64: what FAB's steps are made of."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops.backend import Bounds

_TINY = 1e-300


def way_onto(x: Tensor, normal: Tensor, gap: Tensor, norm: str, bounds: Bounds) -> Tensor:
    """The shortest d (B, D) with <normal, d> = gap and low <= x + d <= high, in "linf", "l2" or "l1".

    Where the box holds no such point, d goes to the corner that is furthest that way, as Croce & Hein do (arXiv
    1907.02044, section 2.2). Entries whose normal is zero stay.

    All entries move the way of the normal's signs, each as far as the box has room: by the same length (linf), or in
    proportion to the normal (l2). What is reached that way grows with that length or factor in straight pieces, whose
    ends are sorted. In l1 the entries with the largest normals go to the edge of the box, one after the other.

    Args:
        x: (B, D) float64, inside the bounds; normal: (B, D) float64, finite; gap: (B,) float64, of either sign.
    """
    way = normal.sign() * gap.sign()[:, None]
    weight, wanted = normal.abs(), gap.abs()[:, None]
    low, high = bounds
    room = torch.where(way > 0, high - x, x - low).clamp(min=0).masked_fill(way == 0, 0.0)
    return way * (_largest_first(weight, room, wanted) if norm == "l1" else _together(weight, room, wanted, norm))


def _together(weight: Tensor, room: Tensor, wanted: Tensor, norm: str) -> Tensor:
    """min(room, s pace) with sum(weight min(room, s pace)) = wanted, pace = weight in l2, 1 in linf; room at most."""
    pace = weight if norm == "l2" else torch.ones_like(weight)
    end, order = torch.where(room > 0, room / pace.clamp(min=_TINY), 0.0).sort(dim=1)
    settled = _before((weight * room).gather(1, order))
    slope = (weight * pace).gather(1, order).flip(1).cumsum(1).flip(1)
    piece = (settled + end * slope < wanted).sum(1, keepdim=True)  # the pieces that end too early
    inside = piece.clamp(max=weight.shape[1] - 1)
    factor = (wanted - settled.gather(1, inside)) / slope.gather(1, inside).clamp(min=_TINY)
    return torch.where(piece == weight.shape[1], room, torch.minimum(room, factor * pace))


def _largest_first(weight: Tensor, room: Tensor, wanted: Tensor) -> Tensor:
    order = weight.argsort(dim=1, descending=True)
    heavy, free = weight.gather(1, order), room.gather(1, order)
    left = wanted - _before(heavy * free)
    part = torch.minimum((left / heavy.clamp(min=_TINY)).clamp(min=0), free)
    return torch.zeros_like(part).scatter_(1, order, part)


def _before(parts: Tensor) -> Tensor:
    """The sum of what comes before each entry."""
    return torch.nn.functional.pad(parts.cumsum(1)[:, :-1], (1, 0))
