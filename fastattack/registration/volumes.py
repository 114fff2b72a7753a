"""Images of a pair from files, and results to files: NIfTI through nibabel, gray PNG and the like through PIL."""

from __future__ import annotations

import gzip
import io
import math
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from ..extras import require
from ..files import write_atomic
from ..images import SUFFIXES, read_image, save_png
from .fields import check_field

_NIFTI = (".nii", ".nii.gz")
_VECTOR = 1007  # NIfTI's intent of a field of vectors
_SAME = 1e-3  # mm
_IN_MM = {"meter": 1e3, "micron": 1e-3}  # NIfTI's units; mm where it names none


@dataclass(frozen=True, kw_only=True)
class Volume:
    """An image, 2D or 3D, on a grid.

    Attributes:
        data: (*spatial), float32, or int64 of labels.
        spacing: mm per voxel, one for each spatial axis, as the affine says; 1 for files that are not NIfTI.
        affine: (4, 4) float64, from voxels to mm of NIfTI (axes as near as may be to left-right, back-front, down-up);
            None for other files. Lengths that the file tells in metres or microns are in mm here.
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

    @property
    def unit(self) -> str:
        """Of lengths: "mm" of NIfTI, which alone tells the size of a voxel, else "pixels"."""
        return "pixels" if self.affine is None else "mm"


class PairOfFiles(NamedTuple):
    """What `read_pair` finds."""

    pair: Tensor
    """(1, 2, *spatial) float32 in [0, 1]: moving, fixed."""
    moving: Volume
    fixed: Volume


def read_volume(path: str | Path) -> Volume:
    """Reads .nii and .nii.gz as they are stored (scaled as the header says), image files as gray in [0, 1].

    NIfTI axes are turned and swapped to the nearest canonical ones (left to right, back to front, down to up), without
    resampling. Axes of one voxel are dropped.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, one that cannot be read, neither 2D nor 3D, or NaN or infinity in it.
        RuntimeError: nibabel is missing (extra ``registration``).
    """
    path = _checked(path)
    return _read_nifti(path) if is_nifti(path) else _flat(path, read_image(path, 1)[0])


def read_labels(path: str | Path, *, like: Volume | None = None) -> Volume:
    """Whole numbers >= 0 as int64, exactly; of image files the stored values (8 or 16 bits, or a palette's indices).

    Args:
        like: the image that they label, whose grid they must have, at the same place (to 0.001 mm) where it is NIfTI.

    Raises:
        FileNotFoundError, ValueError, RuntimeError: as for `read_volume`; numbers that are not whole; a colour image;
            another grid.
    """
    path = _checked(path)
    found = _read_nifti(path, exact=True) if is_nifti(path) else _flat(path, _stored_values(path))
    whole = found.data.round().long() if found.data.is_floating_point() else found.data
    strange = found.data[((found.data - whole).abs() > 1e-3) | (whole < 0)]
    if len(strange):
        raise ValueError(f"{path}: wanted labels, whole numbers >= 0, got {strange[0].item():g}")
    if like is not None:
        image = f"{like.path or 'the image'}"
        _require_same(found, like, f"{path}", image)
        if found.affine is not None and like.affine is not None and abs(found.affine - like.affine).max() > _SAME:
            raise ValueError(f"{path} and {image} lie at different places (affines): wanted labels on their image")
    return replace(found, data=whole)


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


def scaled(volume: Volume, percentiles: tuple[float, float] = (0.5, 99.5)) -> Volume:
    """NIfTI as `normalise` makes it; image files have their scale and stay as they are."""
    return volume if volume.affine is None else normalise(volume, percentiles)


def read_pair(moving: str | Path, fixed: str | Path, *, percentiles: tuple[float, float] = (0.5, 99.5)) -> PairOfFiles:
    """Two images on grids of one shape and spacing. NIfTI is normalised (`normalise`), image files stay as they are.

    Where the grids lie in space is not compared: to bring one image to the other is what registration is for.

    Raises:
        FileNotFoundError, ValueError, RuntimeError: as for `read_volume` and `normalise`; NIfTI beside an image
            file, images of different dimensions, shape or spacing (by more than 0.001 mm): the message names both.
    """
    both = read_volume(moving), read_volume(fixed)
    _require_same(*both, f"moving ({moving})", f"fixed ({fixed})")
    a, b = (scaled(volume, percentiles) for volume in both)
    return PairOfFiles(torch.stack([a.data, b.data])[None], a, b)


def write_volume(path: str | Path, data: Tensor, *, like: Volume) -> None:
    """An image (*spatial) on the grid of ``like``: NIfTI with its affine where that is one (float32, labels int32, or
    int64 where one is larger), else PNG (8 bits;
    labels that are larger 16). Whole or not at all.

    Raises:
        ValueError: a name that does not end in .nii, .nii.gz or .png as it should, data of another shape, or
            labels that no PNG holds.
        OSError: it cannot be written.
    """
    path = Path(path)
    if data.shape != like.data.shape:
        raise ValueError(f"{path}: wanted data {tuple(like.data.shape)}, got {tuple(data.shape)}")
    if like.affine is None:
        most = 255 if data.is_floating_point() or data.max() < 256 else 65535
        if not data.is_floating_point() and not 0 <= data.min() <= data.max() <= most:
            raise ValueError(f"{path}: wanted labels from 0 to 65535 in a PNG, got {data.min()} to {data.max()}")
        image = data if data.is_floating_point() else data.double() / most
        save_png(path, image.detach(), bits=8 if most == 255 else 16)
        return
    values = data.detach().cpu().numpy()
    whole = np.int32 if data.is_floating_point() or data.max() < 2**31 else np.int64
    _write_nifti(path, values.astype(np.float32 if data.is_floating_point() else whole).reshape(like.grid), like)


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


def is_nifti(path: Path) -> bool:
    return path.name.lower().endswith(_NIFTI)


def _checked(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such image file")
    if not is_nifti(path) and path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: wanted .nii, .nii.gz or an image file ({', '.join(sorted(SUFFIXES))})")
    return path


def _flat(path: Path, data: Tensor) -> Volume:
    return Volume(data=data, spacing=(1.0, 1.0), grid=tuple(data.shape), path=path)


def _stored_values(path: Path) -> Tensor:
    """Numbers of an image file as they are stored: neither a palette's colours nor anything scaled."""
    try:
        with Image.open(path) as image:
            mode, values = image.mode, np.asarray(image)
    except (PermissionError, MemoryError):
        raise
    except Exception as error:  # PIL raises many kinds for damaged files
        raise ValueError(f"{path}: cannot be read as an image: {error}") from error
    if mode not in ("1", "L", "P") and not mode.startswith("I"):
        raise ValueError(f"{path}: wanted labels in a gray image or one with a palette, got the pixel type {mode!r}")
    return torch.tensor(values.astype(np.int64))


def _read_nifti(path: Path, *, exact: bool = False) -> Volume:
    """``exact``: int64 where the numbers are stored as integers, else float64; not float32."""
    require("nibabel", what=str(path), extra="registration")
    nibabel: Any = import_module("nibabel")
    try:
        image = nibabel.load(path)
        if len(image.shape) == 2:
            image = nibabel.Nifti1Image(np.asarray(image.dataobj)[..., None], image.affine, image.header)
        unit = image.header.get_xyzt_units()[0]
        image = nibabel.as_closest_canonical(image)
        data = np.asarray(image.dataobj if exact else image.get_fdata(dtype=np.float32))
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
    if exact:
        data = data.astype(np.int64 if data.dtype.kind in "biu" else np.float64)
    affine = np.asarray(image.affine, np.float64) * np.array([[_IN_MM.get(unit, 1.0)]] * 3 + [[1.0]])
    lengths = nibabel.affines.voxel_sizes(affine)  # pixdim may say something else than the affine
    return Volume(
        data=torch.tensor(data.reshape([grid[k] for k in kept]).copy()),
        spacing=tuple(float(lengths[k]) for k in kept),
        affine=affine,
        grid=grid,
        path=path,
    )


def _write_nifti(path: Path, array: npt.NDArray[Any], like: Volume, *, intent: int | None = None) -> None:
    if not is_nifti(path):
        raise ValueError(f"{path}: expected a name that ends in .nii or .nii.gz")
    require("nibabel", what=str(path), extra="registration")
    nibabel: Any = import_module("nibabel")
    image = nibabel.Nifti1Image(array, like.affine, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    if intent is not None:
        image.header.set_intent(intent)
    content = image.to_bytes()
    write_atomic(path, gzip.compress(content, mtime=0) if path.name.lower().endswith(".gz") else content)


def _require_same(a: Volume, b: Volume, first: str, second: str) -> None:
    if (a.affine is None) != (b.affine is None):
        kinds = ["an image file" if volume.affine is None else "NIfTI" for volume in (a, b)]
        raise ValueError(f"{first} is {kinds[0]} and {second} is {kinds[1]}, whose axes differ: wanted one kind")
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
