"""How rough a field is: what training adds to a similarity."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .fields import check_field


def spacings(spacing: Sequence[float] | Tensor | None, field: Tensor, name: str = "spacing") -> Tensor:
    """(B or 1, d) mm per voxel, in the field's dtype (float32 at least) and on its device; None is 1 mm.

    Raises:
        ValueError: something else than d numbers above 0, or d for each sample.
    """
    batch, dims = field.shape[0], field.dim() - 2
    wide = torch.promote_types(field.dtype, torch.float32)
    if spacing is None:
        return torch.ones(1, dims, dtype=wide, device=field.device)
    found = torch.as_tensor(spacing, dtype=wide)
    if tuple(found.shape) not in ((dims,), (1, dims), (batch, dims)):
        raise ValueError(
            f"{name}: wanted {dims} numbers in mm, or ({batch}, {dims}) of them, got shape {tuple(found.shape)}"
        )
    if found.device.type == "cpu" and not bool((found.isfinite() & (found > 0)).all()):
        raise ValueError(f"{name}: wanted finite numbers above 0, got {found.tolist()}")
    return found.to(field.device).view(-1, dims)


def gradient_penalty(field: Tensor, spacing: Sequence[float] | Tensor | None = None) -> Tensor:
    """The sum over components and axes of the mean squared slope, (B,); no unit.

    Displacement and distance are both in mm; slopes are differences of neighbours. 0 for a translation.

    Args:
        field: (B, d, *spatial) in voxels.
        spacing: d numbers, mm per voxel along each axis; or (B, d); None is 1 mm.

    Raises:
        TypeError, ValueError: no field, an axis of fewer than two voxels, a spacing that does not fit.
    """
    dims = check_field(field)
    if min(field.shape[2:]) < 2:
        raise ValueError(f"field: wanted two voxels at least along each axis, got {tuple(field.shape[2:])}")
    space, moved = _in_mm(field, spacing)
    slopes = [_mean_square(moved.diff(dim=2 + k)) / space[:, k] ** 2 for k in range(dims)]
    return torch.stack(slopes).sum(0)


def bending_energy(field: Tensor, spacing: Sequence[float] | Tensor | None = None) -> Tensor:
    """Mean squared second derivatives, mixed ones twice, summed over components, (B,), in mm^-2.

    As of a thin plate (Rueckert et al., IEEE TMI 1999, equation 6 and the like): 0 for an affine field. Derivatives are
    differences of neighbours' differences, each kind averaged over where it exists.

    Args, Raises: as for `gradient_penalty`, with three voxels along each axis.
    """
    dims = check_field(field)
    if min(field.shape[2:]) < 3:
        raise ValueError(f"field: wanted three voxels at least along each axis, got {tuple(field.shape[2:])}")
    space, moved = _in_mm(field, spacing)
    bends = []
    for i in range(dims):
        slope = moved.diff(dim=2 + i)
        for k in range(i, dims):
            bend = _mean_square(slope.diff(dim=2 + k)) / (space[:, i] * space[:, k]) ** 2
            bends.append(bend if i == k else 2 * bend)
    return torch.stack(bends).sum(0)


def _in_mm(field: Tensor, spacing: Sequence[float] | Tensor | None) -> tuple[Tensor, Tensor]:
    space = spacings(spacing, field)
    return space, field.to(space.dtype) * space.view(*space.shape, *[1] * (field.dim() - 2))


def _mean_square(t: Tensor) -> Tensor:
    """(B, d, *spatial) to (B,): the mean over voxels, summed over components."""
    return t.square().flatten(2).mean(2).sum(1)
