"""How well structures with labels lie on each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .fields import check_field, require_floating, warp


def check_labels(labels: Any, name: str = "labels", *, field: Tensor | None = None) -> Tensor:
    """A label map, as it is.

    Raises:
        TypeError, ValueError: something else than integers (or bool), (B, 1, *spatial) in 2D or 3D, on the field's grid
            if one is given.
    """
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        raise TypeError(f"{name}: wanted a tensor of integers, got {getattr(labels, 'dtype', type(labels).__name__)}")
    if field is not None and labels.shape != (wanted := (field.shape[0], 1, *field.shape[2:])):
        raise ValueError(f"{name}: wanted {wanted} as the field is, got {tuple(labels.shape)}")
    if labels.dim() not in (4, 5) or labels.shape[1] != 1:
        raise ValueError(f"{name}: wanted (B, 1, H, W) or (B, 1, D, H, W), got {tuple(labels.shape)}")
    return labels


def labels_of(*maps: Tensor) -> list[int]:
    """The labels other than 0, the background, that occur in any of the maps, in order."""
    return sorted({int(v) for m in maps for v in torch.unique(m).tolist()} - {0})


def dice(a: Tensor, b: Tensor, *, labels: Sequence[int]) -> Tensor:
    """2 |A and B| / (|A| + |B|) of each label, (B, len(labels)) float64; NaN where a label is in neither map.

    Args:
        a, b: label maps (B, 1, *spatial), integers.
        labels: those that count.

    Raises:
        TypeError, ValueError: no label maps, shapes that differ, labels that are no whole numbers, or none.
    """
    check_labels(a, "a")
    check_labels(b, "b")
    if a.shape != b.shape:
        raise ValueError(f"b: wanted the shape {tuple(a.shape)} that a has, got {tuple(b.shape)}")
    found = []
    for label in check_wanted(labels):
        of_a, of_b = (a == label).flatten(1), (b == label).flatten(1)
        found.append(2 * (of_a & of_b).sum(1).double() / (of_a.sum(1) + of_b.sum(1)))
    return torch.stack(found, 1)


def check_wanted(labels: Any) -> list[int]:
    """The labels that are asked for, as a list of whole numbers, one at least."""
    if isinstance(labels, str | Tensor) or not isinstance(labels, Sequence):
        raise TypeError(f"labels: wanted the labels that count, as (1, 2, 3), got {labels!r}")
    if not labels or any(isinstance(v, bool) or not isinstance(v, int) for v in labels):
        raise ValueError(f"labels: wanted whole numbers, one at least, got {labels!r}")
    return list(labels)


def warp_labels(labels: Tensor, field: Tensor) -> Tensor:
    """The label of the voxel nearest to p + u(p), in the labels' dtype; beyond the image its nearest voxel.

    Raises:
        TypeError, ValueError: no label map, or a field that does not fit.
    """
    check_field(field)
    check_labels(labels, field=field)
    # float64 holds every label below 2^53
    return warp(labels.double(), field.double(), mode="nearest").to(labels.dtype)


def one_hot(labels: Tensor, wanted: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """(B, 1, *spatial) integers to (B, len(wanted), *spatial): 1 where the label is, else 0."""
    chosen = torch.tensor(check_wanted(wanted), device=labels.device).view(1, -1, *[1] * (labels.dim() - 2))
    return (check_labels(labels) == chosen).to(dtype)


def soft_dice(one_hot_a: Tensor, one_hot_b: Tensor) -> Tensor:
    """2 sum(a b) / (sum(a) + sum(b)), the mean over the labels that are in either, (B,); NaN where none is.

    Of maps of zeros and ones it is the mean of `dice`; between them, as of warped maps, it is differentiable in both.

    Args:
        one_hot_a, one_hot_b: (B, labels, *spatial), floats from 0 to 1.

    Raises:
        TypeError, ValueError: no floats, or shapes that differ.
    """
    for t, name in ((one_hot_a, "one_hot_a"), (one_hot_b, "one_hot_b")):
        require_floating(t, name)
    if one_hot_a.shape != one_hot_b.shape or one_hot_a.dim() < 3:
        raise ValueError(
            f"one_hot_b: wanted (B, labels, *spatial) of one shape with one_hot_a, got {tuple(one_hot_b.shape)} and "
            f"{tuple(one_hot_a.shape)}"
        )
    wide = torch.promote_types(torch.promote_types(one_hot_a.dtype, one_hot_b.dtype), torch.float32)
    a, b = one_hot_a.to(wide).flatten(2), one_hot_b.to(wide).flatten(2)
    total = a.sum(2) + b.sum(2)
    there = total > 0
    share = 2 * (a * b).sum(2) / torch.where(there, total, 1.0)  # 0 where it is not there
    return share.sum(1) / there.sum(1)
