"""What `fastattack train-registration` trains on, without a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from .images import central
from .registration.batches import ImageBatches
from .registration.folders import read_grays
from .registration.synthetic import Synthetic
from .registration.templates import PLANES, Subject, brain_template
from .registration.truth import Truth
from .training import Batches, Patches

VOLUME = "volume"
SHOWN = 16
"""Held-out slices of the template that a validation takes at most."""


def read_images(paths: Sequence[Path]) -> list[Tensor]:
    """(1, *spatial) in [0, 1], of NIfTI files or image files, or the folders that hold them directly.

    Raises:
        FileNotFoundError, ValueError, RuntimeError: as for `read_grays`.
    """
    return [volume.data[None] for volume in read_grays(paths)]


def template(plane: str, mm: int, split: str) -> Subject:
    """Slices of the brain that nilearn carries, or the volume ("volume").

    Raises:
        ValueError: another plane. RuntimeError: nilearn or nibabel is missing; names the extra.
    """
    if plane not in (*PLANES, VOLUME):
        raise ValueError(f"plane: wanted one of {', '.join((*PLANES, VOLUME))}, got {plane!r}")
    return brain_template(mm=mm) if plane == VOLUME else brain_template(plane, mm=mm, split=split)


def batches_of_images(
    images: Sequence[Tensor], *, patch: int | None, batch: int, seed: int, steps_per_epoch: int | None
) -> Batches:
    """Random square patches of 2D images, or whole images, which must have one shape.

    Raises:
        ValueError: patches of volumes, whole images of different shapes, or images smaller than a patch.
    """
    if patch is not None and images[0].dim() == 3:
        return Patches(images, size=patch, batch=batch, seed=seed, steps_per_epoch=steps_per_epoch)
    if patch is not None:
        raise ValueError(f"patch: wanted none for volumes, which are taken whole, got {patch}")
    shapes = {tuple(image.shape[1:]) for image in images}
    if len(shapes) > 1:
        raise ValueError(f"data: wanted images of one shape, or --patch for 2D ones, got {sorted(shapes)}")
    return ImageBatches(torch.stack(list(images)), batch=batch, seed=seed, steps_per_epoch=steps_per_epoch)


def pairs_of(images: Tensor, labels: Tensor | None, masks: Tensor | None, synthetic: Synthetic, *, seed: int) -> Truth:
    """One pair of each image (N, 1, *spatial), the same at each call, with all that is known of it."""
    pair, truth = synthetic.pairs(images, labels, masks, seed=seed, ids=range(len(images)))
    return replace(truth, pair=pair)


def middle(images: Sequence[Tensor], patch: int | None) -> Tensor:
    """(N, 1, *spatial) of what is to be validated on: the middle of 2D images where patches are learnt."""
    cut = [image if patch is None else central(image, patch) for image in images]
    if len({image.shape for image in cut}) > 1:
        raise ValueError(f"val: wanted images of one shape, got {sorted({tuple(image.shape[1:]) for image in cut})}")
    return torch.stack(cut)


def some(subject: Subject, count: int = SHOWN) -> Subject:
    """At most ``count`` slices, spread evenly."""
    if len(subject) <= count:
        return subject
    return subject.take(torch.linspace(0, len(subject) - 1, count).round().long())
