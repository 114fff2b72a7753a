"""Images of a pair from files, and results to files: NIfTI through nibabel, gray PNG and the like through PIL."""

from __future__ import annotations

import gzip
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..extras import require
from ..files import write_atomic
from ..images import SUFFIXES, find_images, read_image, save_png
from .fields import check_field

_NIFTI = (".nii", ".nii.gz")
_VECTOR = 1007  # NIfTI's intent of a field of vectors
_SAME = 1e-3  # mm


@dataclass(frozen=True, kw_only=True)
class Volume:
    """An image, 2D or 3D, on a grid.

    Attributes:
        data: (*spatial), float32, or int64 of labels.
        spacing: mm per voxel, one for each spatial axis; 1 for files that are not NIfTI.
        affine: (4, 4) float64, from voxels to mm of NIfTI (axes as near as may be to left-right, back-front, down-up);
            None for other files.
        grid: the shape in the file (in the order of ``affine``), where a 2D image may have an axis of one voxel.
        path: where it came from.
    """

    data: Tensor
    spacing: tuple[float, ...]
    affine: npt.NDArray[np.float64] | None = None
    grid: tuple[int, ...] = ()
    path: Path | None = None

    @property
    def dims(self) -> int:
        return self.data.dim()


class PairOfFiles(NamedTuple):
    """What `read_pair` finds."""

    pair: Tensor
    """(1, 2, *spatial) float32 in [0, 1]: moving, fixed."""
    moving: Volume
    fixed: Volume


def find_volumes(paths: Iterable[str | Path]) -> list[Path]:
    """NIfTI files, or image files, among ``paths``: files as named, folders by their direct contents; sorted, without
    repeats. Hidden files in a folder are left out.

    Raises:
        FileNotFoundError, ValueError: as for `find_images`; NIfTI beside image files: the message names one of each.
    """
    nifti: set[Path] = set()
    others: list[Path] = []
    for path in map(Path, paths):
        inside = [p for p in path.iterdir() if not p.name.startswith(".") and p.is_file()] if path.is_dir() else [path]
        here = {p for p in inside if _is_nifti(p)}
        nifti |= here
        if not here or any(p.suffix.lower() in SUFFIXES for p in inside):
            others.append(path)
    images = find_images(others) if others or not nifti else []
    if nifti and images:
        raise ValueError(f"data: wanted NIfTI files or image files, got both: {min(nifti)} and {images[0]}")
    return images or sorted(nifti)


def read_volume(path: str | Path) -> Volume:
    """Reads .nii and .nii.gz as they are stored (scaled as the header says), image files as gray in [0, 1].

    NIfTI axes are turned and swapped to the nearest canonical ones (left to right, back to front, down to up), without
    resampling. Axes of one voxel are dropped.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, one that cannot be read, neither 2D nor 3D, or NaN or infinity in it.
        RuntimeError: nibabel is missing (extra ``registration``).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such image file")
    if _is_nifti(path):
        return _read_nifti(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: wanted .nii, .nii.gz or an image file ({', '.join(sorted(SUFFIXES))})")
    data = read_image(path, 1)[0]
    return Volume(data=data, spacing=(1.0, 1.0), grid=tuple(data.shape), path=path)


def read_labels(path: str | Path, *, like: Volume | None = None) -> Volume:
    """Whole numbers >= 0 as int64; of image files the 8-bit values.

    Args:
        like: the image that they label, whose grid they must have.

    Raises:
        FileNotFoundError, ValueError, RuntimeError: as for `read_volume`; numbers that are not whole; another grid.
    """
    found = read_volume(path)
    values = found.data.double() * (1 if found.affine is not None else 255)
    whole = values.round()
    if (values - whole).abs().max() > 1e-3 or whole.min() < 0:
        raise ValueError(f"{path}: wanted labels, whole numbers >= 0, got {_strange(values)}")
    if like is not None:
        _require_same(found, like, f"{path}", f"{like.path or 'the image'}")
    return replace(found, data=whole.long())


def normalise(volume: Volume, percentiles: tuple[float, float] = (0.5, 99.5)) -> Volume:
    """Grey values in [0, 1]: the percentiles become 0 and 1, what lies outside is clipped.

    Raises:
        ValueError: percentiles that are not 0 <= low < high <= 100, or an image without contrast between them.
    """
    if not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise ValueError(f"percentiles: wanted 0 <= low < high <= 100, got {percentiles!r}")
    low, high = np.percentile(volume.data.double().numpy(), percentiles)
    if not low < high:
        raise ValueError(f"{volume.path or 'volume'}: no contrast, {percentiles} percentiles are both {low:g}")
    return replace(volume, data=((volume.data.double() - low) / (high - low)).clamp(0, 1).float())


def read_pair(moving: str | Path, fixed: str | Path, *, percentiles: tuple[float, float] = (0.5, 99.5)) -> PairOfFiles:
    """Two images on grids of one shape and spacing. NIfTI is normalised (`normalise`), image files stay as they are.

    Where the grids lie in space is not compared: to bring one image to the other is what registration is for.

    Raises:
        FileNotFoundError, ValueError, RuntimeError: as for `read_volume` and `normalise`; images of different
            dimensions, shape or spacing (by more than 0.001 mm): the message names both.
    """
    both = read_volume(moving), read_volume(fixed)
    _require_same(*both, f"moving ({moving})", f"fixed ({fixed})")
    a, b = (volume if volume.affine is None else normalise(volume, percentiles) for volume in both)
    return PairOfFiles(torch.stack([a.data, b.data])[None], a, b)


def write_volume(path: str | Path, data: Tensor, *, like: Volume) -> None:
    """An image (*spatial) on the grid of ``like``: NIfTI with its affine where that is one (float32, labels int32),
    else 8-bit PNG. Whole or not at all.

    Raises:
        ValueError: a name that does not end in .nii, .nii.gz or .png as it should, or data of another shape.
        OSError: it cannot be written.
    """
    path = Path(path)
    if data.shape != like.data.shape:
        raise ValueError(f"{path}: wanted data {tuple(like.data.shape)}, got {tuple(data.shape)}")
    if like.affine is None:
        save_png(path, data.detach())
        return
    stored = data.detach().cpu().numpy().astype(np.float32 if data.is_floating_point() else np.int32)
    _write_nifti(path, stored.reshape(like.grid), like)


def write_field(path: str | Path, field: Tensor, *, like: Volume) -> None:
    """A field (d, *spatial) in voxels on the grid of ``like``. Whole or not at all.

    NIfTI where ``like`` is one: (*grid, 1, d) float32 in mm along the axes of the grid, intent 1007 (vectors). Else
    .npz: ``field`` in voxels and ``spacing``.

    Raises:
        ValueError: a name that does not end in .nii, .nii.gz or .npz as it should, or a field of another shape.
        OSError: it cannot be written.
    """
    path = Path(path)
    check_field(field[None])
    if field.shape[1:] != like.data.shape:
        raise ValueError(f"{path}: wanted a field {(like.dims, *like.data.shape)}, got {tuple(field.shape)}")
    values = field.detach().cpu().float().numpy()
    if like.affine is None:
        if path.suffix.lower() != ".npz":
            raise ValueError(f"{path}: expected a name that ends in .npz")
        file = io.BytesIO()
        np.savez_compressed(file, field=values, spacing=np.array(like.spacing))
        write_atomic(path, file.getvalue())
        return
    grid = (*like.grid, *(1,) * (3 - len(like.grid)))
    lengths = np.moveaxis(values, 0, -1) * np.array(like.spacing, np.float32)
    _write_nifti(path, lengths.reshape(*grid, 1, like.dims), like, intent=_VECTOR)


def _is_nifti(path: Path) -> bool:
    return path.name.lower().endswith(_NIFTI)


def _read_nifti(path: Path) -> Volume:
    require("nibabel", what=str(path), extra="registration")
    nibabel: Any = import_module("nibabel")
    try:
        image = nibabel.load(path)
        if len(image.shape) == 2:
            image = nibabel.Nifti1Image(np.asarray(image.dataobj)[..., None], image.affine)
        image = nibabel.as_closest_canonical(image)
        data = np.asarray(image.get_fdata(dtype=np.float32))
    except (PermissionError, MemoryError):
        raise
    except Exception as error:  # nibabel raises many kinds for damaged files: ImageFileError, OSError, zlib.error, ...
        raise ValueError(f"{path}: cannot be read as NIfTI: {error}") from error
    grid = data.shape[:3]
    kept = [k for k, n in enumerate(grid) if n > 1]
    if math.prod(data.shape[3:]) != 1 or len(kept) not in (2, 3):
        raise ValueError(f"{path}: wanted a 2D or 3D image, got shape {data.shape}")
    if not np.isfinite(data).all():
        raise ValueError(f"{path}: wanted finite numbers, got NaN or infinity")
    zooms = image.header.get_zooms()
    return Volume(
        data=torch.tensor(data.reshape([grid[k] for k in kept]).copy()),
        spacing=tuple(float(zooms[k]) for k in kept),
        affine=np.asarray(image.affine, np.float64),
        grid=grid,
        path=path,
    )


def _write_nifti(path: Path, array: npt.NDArray[Any], like: Volume, *, intent: int | None = None) -> None:
    if not _is_nifti(path):
        raise ValueError(f"{path}: expected a name that ends in .nii or .nii.gz")
    require("nibabel", what=str(path), extra="registration")
    nibabel: Any = import_module("nibabel")
    image = nibabel.Nifti1Image(array, like.affine)
    image.header.set_xyzt_units("mm")
    if intent is not None:
        image.header.set_intent(intent)
    content = image.to_bytes()
    write_atomic(path, gzip.compress(content, mtime=0) if path.name.lower().endswith(".gz") else content)


def _require_same(a: Volume, b: Volume, first: str, second: str) -> None:
    if a.dims != b.dims:
        raise ValueError(f"{first} is {a.dims}D and {second} is {b.dims}D: wanted both 2D or both 3D")
    if a.data.shape != b.data.shape:
        raise ValueError(
            f"{first} has shape {tuple(a.data.shape)} and {second} {tuple(b.data.shape)}: wanted one shape"
        )
    if max(abs(x - y) for x, y in zip(a.spacing, b.spacing, strict=True)) > _SAME:
        raise ValueError(f"{first} has voxels of {_mm(a)} and {second} of {_mm(b)}: wanted one spacing")


def _mm(volume: Volume) -> str:
    return " x ".join(f"{step:g}" for step in volume.spacing) + " mm"


def _strange(values: Tensor) -> str:
    odd = values[((values - values.round()).abs() > 1e-3) | (values < 0)]
    return f"{float(odd[0]):g}"
