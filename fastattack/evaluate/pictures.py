"""The images of an evaluation: all looked at once before any work, then read batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..images import central, find_images, read_image
from ..job import add_noise, batches_of, image_names
from ..models.weights import sha256_of
from .measure import Batch

Gather = Callable[[Any], list[Any]]
"""One value of this process -> those of all processes, by rank."""


@dataclass(frozen=True)
class Picture:
    """One image file.

    Attributes:
        number: place among all files, broken ones counted; it decides the noise and the random starts.
        name: unique, fit for a file name.
        size: (H, W) of what is attacked.
        sha256: of the file.
    """

    number: int
    name: str
    path: Path
    size: tuple[int, int]
    sha256: str


@dataclass(frozen=True)
class Pictures:
    """``good`` in order, and (path, why) of what cannot be read."""

    good: tuple[Picture, ...]
    broken: tuple[tuple[str, str], ...]

    def named(self) -> list[tuple[int, str, str]]:
        """(number, name, SHA-256) of each."""
        return [(p.number, p.name, p.sha256) for p in self.good]

    def batches(self, size: int) -> list[list[Picture]]:
        """Images of one shape, at most ``size`` together, in order of first appearance."""
        return [[self.good[i] for i in batch] for batch in batches_of((p.size for p in self.good), size)]


def look_through(
    data: Sequence[str | Path],
    *,
    channels: int,
    crop: int | None = None,
    limit: int | None = None,
    skip_bad: bool = False,
    share: tuple[int, int] = (0, 1),
    gather: Gather = lambda mine: [mine],
) -> Pictures:
    """Every image decoded once, so that a broken one is found before any work; nothing is kept in memory.

    Args:
        data: folders and files, as for `find_images`.
        channels: 1 or 3, as they will be read.
        crop: edge of the central crop that will be taken; smaller images count as broken.
        limit: only the first so many files.
        skip_bad: broken images are listed; else they are an error.
        share, gather: (rank, processes) and what brings their findings together.

    Raises:
        FileNotFoundError, ValueError: no images; or broken ones without ``skip_bad``, or nothing else.
    """
    paths = find_images(list(data))
    names = image_names(paths)
    paths = paths[:limit]
    rank, processes = share
    mine = {i: _look(path, channels, crop) for i, path in enumerate(paths) if i % processes == rank}
    found: dict[int, tuple[tuple[int, int], str] | str] = {}
    for part in gather(mine):
        found |= part
    good, broken = [], []
    for i, path in enumerate(paths):
        seen = found[i]
        if isinstance(seen, str):
            broken.append((str(path), seen))
        else:
            good.append(Picture(i, names[i], path, *seen))
    if broken and not skip_bad:
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        raise ValueError(f"{broken[0][1]}{more}; pass --skip-bad to leave such images out")
    if not good:
        raise ValueError(f"data: wanted at least one image that can be read, got {len(broken)} broken ones")
    return Pictures(tuple(good), tuple(broken))


def load_batch(pictures: Sequence[Picture], *, channels: int, crop: int | None, sigma: float, seed: int) -> Batch:
    """Clean images and their noise, which depends on (seed, number) alone. sigma on the 0-255 scale.

    Raises:
        ValueError: a file that has changed since it was looked at.
    """
    images = []
    for picture in pictures:
        image = _central(read_image(picture.path, channels), crop)
        if tuple(image.shape[-2:]) != picture.size:
            raise ValueError(f"{picture.path}: has changed since the run began: wanted {picture.size} pixels")
        images.append(image)
    clean = torch.stack(images)
    noisy = torch.stack([add_noise(x, sigma, seed, p.number) for x, p in zip(images, pictures, strict=True)])
    return Batch(tuple(p.number for p in pictures), tuple(p.name for p in pictures), clean, noisy)


def _look(path: Path, channels: int, crop: int | None) -> tuple[tuple[int, int], str] | str:
    """Size and checksum, or what is wrong, beginning with the path."""
    try:
        height, width = _central(read_image(path, channels), crop, path).shape[-2:]
        return (height, width), sha256_of(path)
    except (OSError, ValueError) as error:
        return " ".join(str(error).split())


def _central(image: Tensor, crop: int | None, path: Path | None = None) -> Tensor:
    if crop is None:
        return image
    height, width = image.shape[-2:]
    if min(height, width) < crop:
        raise ValueError(f"{path}: wanted at least {crop} x {crop} pixels for the crop, got {height} x {width}")
    return central(image, crop).contiguous()
