"""Real brains that two packages carry: nilearn's template of many heads, dipy's slices of others. No downloads.

Axes are x (left to right), y (back to front), z (up); a slice keeps the order of those that are left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import Self

from ..extras import require

PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
SPLITS = ("all", "train", "held-out")
_PERIOD, _TRAIN, _HELD_OUT = 32.0, 18.0, (22.0, 28.0)  # mm along the axis that a slice cuts
_BRAIN = 0.2  # of the T1's highest value: nilearn's own threshold for its brain mask
_Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Images of one head on one grid: S slices, or one volume (S = 1).

    Attributes:
        images: (S, 1, *spatial) float32 in [0, 1].
        labels: (S, 1, *spatial) int64: 0 outside the brain, 1 fluid and what else is no tissue, 2 grey, 3 white.
        masks: (S, 1, *spatial) bool, the brain.
        positions: (S,) float64, mm, where the slice cuts its axis; NaN where nobody says.
        spacing: mm per voxel, one for each spatial axis.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor
    positions: Tensor
    spacing: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Tensor | slice) -> Self:
        """Some of the slices."""
        parts = {name: getattr(self, name)[rows] for name in ("images", "labels", "masks", "positions")}
        return type(self)(**parts, spacing=self.spacing)


def brain_template(
    plane: str | None = None,
    *,
    mm: int = 2,
    size: tuple[int, ...] | None = None,
    split: str = "all",
    least: float = 0.4,
) -> Subject:
    """The ICBM 152 T1 template (Fonov et al., 2011; skull taken off) with grey and white matter, as nilearn carries it.

    Voxels of ``mm`` are means of the file's 1 mm voxels. Labels are the likeliest of the template's grey matter, its
    white matter and the rest. A split cuts the axis into periods of 32 mm: 18 mm train, 4 mm nobody's, 6 mm held out,
    4 mm nobody's, so that slices of the two sets are more than 4 mm apart. The template is symmetric: sagittal slices
    are split by their distance from the midline, so that no slice is held out whose mirror image was learnt. Slices
    in other planes cross: train and held-out sets are apart in one plane only.

    Args:
        plane: "axial", "coronal" or "sagittal" slices; None: the volume.
        mm: voxel size, 1 to 8.
        size: spatial size, cropped or filled with 0 around the middle of the brain; None: the whole grid.
        split: "train", "held-out" or "all" slices.
        least: slices with less brain than this share of the largest one are left out.

    Raises:
        RuntimeError: nilearn or nibabel is missing (extras ``registration-data``, ``registration``).
        ValueError: an option that cannot be.
    """
    if plane is not None and plane not in PLANES:
        raise ValueError(f"plane: wanted one of {', '.join(PLANES)} or None, got {plane!r}")
    if split not in SPLITS or (plane is None and split != "all"):
        raise ValueError(f"split: wanted one of {', '.join(SPLITS)} ('all' for a volume), got {split!r}")
    if isinstance(mm, bool) or not isinstance(mm, int) or not 1 <= mm <= 8:
        raise ValueError(f"mm: wanted a whole number from 1 to 8, got {mm!r}")
    if not 0 <= least <= 1:
        raise ValueError(f"least: wanted a share from 0 to 1, got {least!r}")
    require("nilearn", what="brain_template", extra="registration-data")
    require("nibabel", what="brain_template", extra="registration")
    t1, labels, origin = _template(mm)
    axis = 0 if plane is None else PLANES[plane]
    images, classes = (grid[None] if plane is None else np.moveaxis(grid, axis, 0) for grid in (t1, labels))
    places = np.full(1, math.nan) if plane is None else origin[axis] + mm * np.arange(t1.shape[axis])
    found = _subject(images, classes, places, (float(mm),) * (images.ndim - 1), size)
    if plane is None:
        return found
    area = found.masks.flatten(1).sum(1)
    kept = (area >= least * area.max()) & (area > 0)
    if split != "all":
        phase = (found.positions.abs() if plane == "sagittal" else found.positions).remainder(_PERIOD)
        low, high = _HELD_OUT
        kept &= (phase < _TRAIN) if split == "train" else (phase >= low) & (phase < high)
    return found.take(kept)


def dipy_slices(name: str = "t1", *, size: tuple[int, int] = (96, 96)) -> Subject:
    """Slices of heads that are not in the template, as dipy carries them, at 2 mm, oriented as the template is.

    ``"t1"``: one coronal T1 slice, skull taken off. ``"b0"``: ten axial slices of a diffusion scan without diffusion
    weighting (T2-like, distorted at the front, with some skull). Nobody labelled them: the labels are three classes of
    intensity inside the brain (Otsu's thresholds), numbered as the template's.

    Raises:
        RuntimeError: dipy or nibabel is missing (extras ``registration-data``, ``registration``).
        ValueError: another name.
    """
    if name not in ("t1", "b0"):
        raise ValueError(f"name: wanted 't1' or 'b0', got {name!r}")
    require("dipy", what="dipy_slices", extra="registration-data")
    require("nibabel", what="dipy_slices", extra="registration")
    if name == "t1":
        image = _pooled(np.load(_file("dipy", "data/files/t1_coronal_slice.npy"))[::-1].T, 2)[None]
        mask = image > _BRAIN * image.max()
    else:
        image = np.moveaxis(_nifti(_file("dipy", "data/files/S0_10slices.nii.gz"))[..., 0].astype(np.float64), -1, 0)
        image = (image / np.percentile(image, 99.5)).clip(0, 1)
        mask = np.sqrt(image) > _otsu(np.sqrt(image), 1)[0]  # the fluid would hide what is tissue
    low, high = _otsu(image[mask], 2)
    rank = 1 + (image >= low) + (image >= high)
    labels = np.where(mask, rank if name == "t1" else 4 - rank, 0)  # T2: fluid is bright, white matter dark
    return _subject(image, labels, np.full(len(image), math.nan), (2.0, 2.0), size)


@lru_cache(maxsize=2)
def _template(mm: int) -> tuple[_Array, _Array, _Array]:
    """T1 in [0, 1], labels, and where the first voxel's middle is, in mm; read-only."""
    folder = "datasets/data/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
    paths = [_file("nilearn", folder.format(kind)) for kind in ("t1", "gm", "wm")]
    t1, grey, white = (_pooled(_nifti(path).astype(np.float32) / 255, mm) for path in paths)
    tissue = np.stack([1 - grey - white, grey, white]).argmax(0) + 1
    labels = np.where(t1 > _BRAIN, tissue, 0)
    origin = _nibabel().load(paths[0]).affine[:3, 3] + (mm - 1) / 2
    for array in (t1, labels, origin):
        array.setflags(write=False)
    return t1, labels, origin


def _subject(
    images: _Array, labels: _Array, places: _Array, spacing: tuple[float, ...], size: tuple[int, ...] | None
) -> Subject:
    if size is not None:
        if len(size) != images.ndim - 1 or min(size) < 1:
            raise ValueError(f"size: wanted {images.ndim - 1} numbers of voxels, got {size!r}")
        brain = np.nonzero((labels > 0).any(0))
        middle = [(int(where.min()) + int(where.max()) + 1) // 2 for where in brain]
        images, labels = (_window(grid, middle, size) for grid in (images, labels))
    classes = torch.tensor(labels, dtype=torch.int64)[:, None]
    return Subject(
        images=torch.tensor(images, dtype=torch.float32)[:, None],
        labels=classes,
        masks=classes > 0,
        positions=torch.tensor(places, dtype=torch.float64),
        spacing=spacing,
    )


def _window(grid: _Array, middle: list[int], size: tuple[int, ...]) -> _Array:
    """Voxels around the middle of the axes after the first; 0 beyond the grid."""
    for axis, (centre, wanted) in enumerate(zip(middle, size, strict=True), 1):
        first = centre - wanted // 2
        before, after = max(-first, 0), max(first + wanted - grid.shape[axis], 0)
        kept = grid.take(range(max(first, 0), min(first + wanted, grid.shape[axis])), axis)
        grid = np.pad(kept, [(before, after) if k == axis else (0, 0) for k in range(grid.ndim)])
    return grid


def _pooled(grid: _Array, times: int) -> _Array:
    """Means of blocks of ``times`` voxels along each axis; what is left over at the ends is dropped."""
    for axis in range(grid.ndim):
        count = grid.shape[axis] // times
        kept = grid.take(range(count * times), axis)
        grid = kept.reshape(*kept.shape[:axis], count, times, *kept.shape[axis + 1 :]).mean(axis + 1)
    return grid


def _otsu(values: _Array, cuts: int) -> list[float]:
    """The one or two thresholds between which the classes' means are furthest apart (Otsu, 1979), of 128 levels."""
    counts, edges = np.histogram(values, 128)
    mass, moment = (np.concatenate([[0.0], np.cumsum(x)]) for x in (counts, counts * (edges[1:] + edges[:-1]) / 2))

    def gain(ends: tuple[int, ...]) -> float:
        pairs = list(zip((0, *ends), (*ends, 128), strict=True))
        return float(sum((moment[b] - moment[a]) ** 2 / max(mass[b] - mass[a], 1e-12) for a, b in pairs))

    ends = range(1, 128)
    tried = [(a,) for a in ends] if cuts == 1 else [(a, b) for a in ends for b in ends if a < b]
    return [float(edges[k]) for k in max(tried, key=gain)]


def _nifti(path: Path) -> _Array:
    return np.asarray(_nibabel().load(path).dataobj)


def _nibabel() -> Any:
    return import_module("nibabel")


def _file(package: str, name: str) -> Path:
    """A file that a package carries; the package itself, which takes seconds, is not imported."""
    spec = find_spec(package)
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    for folder in folders:
        if (path := Path(folder) / name).is_file():
            return path
    raise RuntimeError(f"{package}: wanted a version that carries {name}; pip install 'fastattack[registration-data]'")
