"""Pictures of a registration: checkerboards, deformed grids, determinants. All are (3, H, W) in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .fields import check_field, folded

_INK, _FOLD = (0.10, 0.20, 0.45), (0.85, 0.10, 0.10)
_LESS, _MORE = (0.13, 0.40, 0.67), (0.90, 0.55, 0.15)
_GAP = 4  # pixels between pictures


def checkerboard(a: Tensor, b: Tensor, *, tiles: int = 8) -> Tensor:
    """Squares of ``a`` and ``b`` (H, W) in turn, ``tiles`` along the longer edge: edges run on where the images fit.

    Raises:
        ValueError: images that are not (H, W) of one shape, or fewer than two tiles.
    """
    if a.dim() != 2 or a.shape != b.shape:
        raise ValueError(f"a: wanted two images (H, W) of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    if isinstance(tiles, bool) or not isinstance(tiles, int) or tiles < 2:
        raise ValueError(f"tiles: wanted a whole number >= 2, got {tiles!r}")
    edge = max(1, -(-max(a.shape) // tiles))
    rows, columns = (torch.arange(n, device=a.device) // edge for n in a.shape)
    second = (rows[:, None] + columns) % 2 == 1
    return torch.where(second, b, a).float().clamp(0, 1).expand(3, -1, -1).clone()


def grid_picture(field: Tensor, *, step: float | None = None, zoom: int = 1, folds: Tensor | None = None) -> Tensor:
    """Where the lines of a regular grid of the moving image come to lie: ink on white, and red where the field folds.

    Args:
        field: (2, H, W), in voxels.
        step: voxels between two lines; None: 16 lines along the longer edge.
        zoom: pixels for a voxel.
        folds: (H, W) bool, what is red; None: where these two components fold. A slice of 3D folds by all three.

    Raises:
        TypeError, ValueError: no such field, or a step or zoom that cannot be.
    """
    check_field(field[None])
    if field.shape[0] != 2:
        raise ValueError(f"field: wanted (2, H, W), got {tuple(field.shape)}; middle_fields gives slices of 3D")
    step = max(2.0, max(field.shape[1:]) / 16) if step is None else step
    if not step > 0 or isinstance(zoom, bool) or not isinstance(zoom, int) or zoom < 1:
        raise ValueError(f"step: wanted a length > 0 and zoom a whole number >= 1, got {step!r} and {zoom!r}")
    u = field.detach().double()
    fine = functional.interpolate(u[None], scale_factor=zoom, mode="bilinear", align_corners=False)[0]
    axes = [(torch.arange(n, dtype=fine.dtype, device=fine.device) + 0.5) / zoom - 0.5 for n in fine.shape[1:]]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij")) + fine
    ink = torch.zeros_like(places[0])
    for place in places:
        slope = torch.stack(torch.gradient(place)).norm(dim=0).clamp(min=1e-6)
        apart = ((place + step / 2).remainder(step) - step / 2).abs() / slope  # in pixels
        ink = torch.maximum(ink, (1.1 - apart).clamp(0, 1))
    red = enlarged((folded(u[None])[0] if folds is None else folds).double(), zoom)
    picture = 1 - ink * (1 - _colour(_INK, ink))
    return (picture * (1 - 0.7 * red) + 0.7 * red * _colour(_FOLD, ink)).float()


def determinant_picture(determinant: Tensor, folds: Tensor, *, zoom: int = 1) -> Tensor:
    """White at 1, blue where space shrinks, orange where it grows, to twice and beyond; red where it folds.

    Args:
        determinant: (H, W), of the Jacobian. folds: (H, W) bool. zoom: pixels for a voxel.

    Raises:
        ValueError: shapes that are not those.
    """
    if determinant.dim() != 2 or folds.shape != determinant.shape:
        raise ValueError(
            f"determinant: wanted (H, W) as folds has, got {tuple(determinant.shape)} and {tuple(folds.shape)}"
        )
    shrunk, grown = (1 - determinant).clamp(0, 1), (determinant - 1).clamp(0, 1)
    picture = 1 - shrunk * (1 - _colour(_LESS, shrunk)) - grown * (1 - _colour(_MORE, grown))
    return enlarged(torch.where(folds, _colour(_FOLD, shrunk), picture), zoom).float().clamp(0, 1)


def middle_slices(volume: Tensor) -> list[Tensor]:
    """(*spatial) to (H, W): a 2D image itself, of a volume the three slices through its middle."""
    if volume.dim() == 2:
        return [volume]
    return [volume.select(axis, volume.shape[axis] // 2) for axis in range(3)]


def middle_fields(field: Tensor) -> list[Tensor]:
    """(d, *spatial) to (2, H, W): a 2D field itself, of 3D what moves within each of the three middle slices."""
    if field.shape[0] == 2:
        return [field]
    rest = [[k for k in range(3) if k != axis] for axis in range(3)]
    return [field[rest[k]].select(1 + k, field.shape[1 + k] // 2) for k in range(3)]


def beside(pictures: Sequence[Tensor], *, upright: bool = False) -> Tensor:
    """Pictures (3, H, W) side by side on white.

    Args:
        upright: the first axis to the right and the second one up, as NIfTI's slices are looked at.
    """
    turned = [p.transpose(1, 2).flip(1) if upright else p for p in pictures]
    height = max(p.shape[1] for p in turned)
    padded = [functional.pad(p, (0, _GAP, 0, height - p.shape[1]), value=1.0) for p in turned]
    return torch.cat(padded, 2)[:, :, :-_GAP]


def zoom_for(shape: Sequence[int], least: int = 320) -> int:
    """Pixels for a voxel, so that the longest edge is not much below ``least`` pixels."""
    return max(1, round(least / max(shape)))


def enlarged(picture: Tensor, zoom: int) -> Tensor:
    """(C, H, W) with every pixel ``zoom`` x ``zoom`` times."""
    return picture.repeat_interleave(zoom, -2).repeat_interleave(zoom, -1)


def _colour(rgb: tuple[float, float, float], like: Tensor) -> Tensor:
    return like.new_tensor(rgb)[:, None, None]
