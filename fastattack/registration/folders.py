"""Images of files and folders, NIfTI or gray."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..images import SUFFIXES, find_images
from .volumes import Volume, is_nifti, read_volume, scaled


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
        here = {p for p in inside if is_nifti(p)}
        nifti |= here
        if not here or any(p.suffix.lower() in SUFFIXES for p in inside):
            others.append(path)
    images = find_images(others) if others or not nifti else []
    if nifti and images:
        raise ValueError(f"data: wanted NIfTI files or image files, got both: {min(nifti)} and {images[0]}")
    return images or sorted(nifti)


def read_grays(paths: Iterable[Path]) -> list[Volume]:
    """The images among ``paths`` in [0, 1] (`scaled`), all 2D or all 3D.

    Raises:
        FileNotFoundError, ValueError, RuntimeError: as for `find_volumes`, `read_volume` and `normalise`; 2D beside 3D.
    """
    found: list[Volume] = []
    for path in find_volumes(paths):
        found.append(scaled(read_volume(path)))
        if found[-1].dims != found[0].dims:
            raise ValueError(f"data: wanted images of {found[0].dims} dimensions, got {found[-1].dims} in {path}")
    return found
