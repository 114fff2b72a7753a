"""Pairs to attack, from files: two images, or images of which synthetic pairs are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from ..job import image_names
from .folders import read_grays
from .synthetic import Synthetic
from .truth import Truth
from .volumes import read_labels, read_pair


@dataclass(frozen=True)
class Case:
    """A pair (2, *spatial) in [0, 1], what is known of it, in parts with one row, and the unit of lengths."""

    name: str
    pair: Tensor = field(repr=False)
    truth: Truth = field(repr=False)
    unit: str = "pixels"


def case_of_files(
    moving: Path, fixed: Path, *, labels_moving: Path | None = None, labels_fixed: Path | None = None
) -> Case:
    """Two image files, NIfTI or gray, as a pair; label maps of them where there are any.

    Raises:
        FileNotFoundError, ValueError, RuntimeError: as for `read_pair` and `read_labels`; labels of one image alone.
    """
    if (labels_moving is None) != (labels_fixed is None):
        missing = "labels-moving" if labels_moving is None else "labels-fixed"
        raise ValueError(f"{missing}: wanted the labels of both images, or of none, got those of one")
    found = read_pair(moving, fixed)
    labels: dict[str, Tensor] = {}
    if labels_moving is not None and labels_fixed is not None:
        for name, path, image in (
            ("labels_moving", labels_moving, found.moving), ("labels_fixed", labels_fixed, found.fixed)
        ):  # fmt: skip
            labels[name] = read_labels(path, like=image).data[None, None]
    truth = Truth(spacing=torch.tensor([found.fixed.spacing]), **labels)
    return Case(f"{_stem(moving)}-{_stem(fixed)}", found.pair[0], truth, found.fixed.unit)


def synthetic_cases(data: Sequence[Path], *, seed: int, options: Synthetic | None = None) -> list[Case]:
    """A pair of each image, deformed and with other grey values, whose true field is known (`Synthetic`).

    Args:
        data: NIfTI files or image files, or folders of them (`folders.find_volumes`); read as gray.
        seed: of the draws, with the image's number.
        options: how pairs are made; the spacing, where they have none, is the file's.

    Raises:
        FileNotFoundError, ValueError, RuntimeError: files that cannot be read, images too small for landmarks, 2D
            beside 3D, or NIfTI beside image files.
    """
    volumes = read_grays(data)
    paths = [volume.path for volume in volumes if volume.path is not None]
    names = image_names([path.with_name(f"{_stem(path)}.png") for path in paths])  # .nii.gz is two suffixes
    known = options or Synthetic()
    cases: list[Case] = []
    for number, (name, volume) in enumerate(zip(names, volumes, strict=True)):
        told = known if known.spacing is not None else replace(known, spacing=volume.spacing)
        made = told.pairs(volume.data[None, None], seed=seed, ids=[number])
        cases.append(Case(name, made.pair[0], made.truth, volume.unit))
    return cases


def joined(truths: Sequence[Truth]) -> Truth:
    """What is known of all pairs; parts that each truth has.

    Raises:
        ValueError: some have a part that others lack.
    """
    parts: dict[str, Tensor | None] = {}
    for name in (f.name for f in fields(Truth)):
        values = [getattr(truth, name) for truth in truths]
        there = [value for value in values if value is not None]
        if there and len(there) != len(values):
            raise ValueError(f"truth: wanted {name} of every pair or of none, got it of {len(there)} of {len(values)}")
        parts[name] = torch.cat(there) if there else None
    return Truth(**parts)


def _stem(path: Path) -> str:
    name = path.name
    return name[: -len(".nii.gz")] if name.lower().endswith(".nii.gz") else path.stem
