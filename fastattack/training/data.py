"""Training patches from images in memory: a pure function of (seed, epoch, step), so resuming needs no state."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..guard import Rowwise
from .config import require_whole


class Batches(Protocol):
    """What the loop trains on. ``Patches`` is one; anything that gives the same batch for the same call will do.

    All batches of a run have one size: sample k of step s has the noise of sample id s * B + k, so that with a smaller
    batch two samples of an epoch would have the same. Leave out, or fill up, the last batch of an epoch.
    """

    @property
    def steps_per_epoch(self) -> int: ...

    def batch_at(self, epoch: int, step: int) -> Tensor | Rowwise:
        """Clean images (B, C, H, W) of a step, counted from 0 in each epoch; B is the same for all.

        Or several tensors of B rows each, as a `fastattack.guard.Rowwise`, for a strategy that takes them.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Numbers, words, tensors, arrays, or lists and dicts of them, that tell these batches from others.

        A checkpoint is only resumed with the same.
        """
        ...


class Patches:
    """Random square patches with random flips and quarter turns.

    Each patch is of an image drawn uniformly (whatever its size), at a place drawn uniformly. The numbers are those of
    numpy's ``default_rng([seed, epoch, step])``.

    Args:
        images: float tensors (C, H, W), of any sizes and one C, nominal range [0, 1]; or a stack (N, C, H, W).
        size: edge of a patch, in pixels.
        batch: patches in a batch.
        seed: >= 0.
        steps_per_epoch: default: as many as cover the images' pixels once, on average.

    Raises:
        TypeError, ValueError: no images, an image that is smaller than a patch or unlike the first; it is named.
    """

    def __init__(
        self,
        images: Sequence[Tensor] | Tensor,
        *,
        size: int = 48,
        batch: int = 16,
        seed: int = 0,
        steps_per_epoch: int | None = None,
    ) -> None:
        for value, name, least in ((size, "size", 1), (batch, "batch", 1), (seed, "seed", 0)):
            require_whole(value, name, least)
        self.images = list(images)
        self.size, self.batch, self.seed = size, batch, seed
        _check(self.images, size)
        pixels = sum(image[0].numel() for image in self.images)
        self.steps_per_epoch = max(1, pixels // (batch * size**2)) if steps_per_epoch is None else steps_per_epoch
        require_whole(self.steps_per_epoch, "steps_per_epoch", 1)

    def batch_at(self, epoch: int, step: int) -> Tensor:
        """Patches (B, C, size, size) of a step of an epoch, both counted from 0."""
        random = np.random.default_rng([self.seed, epoch, step])
        which = random.integers(len(self.images), size=self.batch)
        heights, widths = (np.array([self.images[i].shape[k] for i in which]) for k in (1, 2))
        tops, lefts = random.integers(heights - self.size + 1), random.integers(widths - self.size + 1)
        turns = random.integers(8, size=self.batch)
        return torch.stack([self._patch(*place) for place in zip(which, tops, lefts, turns, strict=True)])

    def _patch(self, which: int, top: int, left: int, turn: int) -> Tensor:
        patch = self.images[which][:, top : top + self.size, left : left + self.size]
        patch = torch.rot90(patch, int(turn) % 4, (1, 2))
        return patch.flip(2) if turn >= 4 else patch

    def describe(self) -> dict[str, Any]:
        """Seed, sizes, and a checksum of the images."""
        checksum = 0
        for image in self.images:
            checksum = zlib.crc32(image.detach().cpu().float().numpy().tobytes(), checksum)
        return {
            "images": len(self.images), "checksum": checksum, "size": self.size, "batch": self.batch,
            "seed": self.seed, "steps_per_epoch": self.steps_per_epoch,
        }  # fmt: skip


def _check(images: list[Tensor], size: int) -> None:
    if not images:
        raise ValueError("images: wanted at least one, got none")
    for k, image in enumerate(images):
        require_image(image, f"images[{k}]", size)
        first = images[0]
        if (image.shape[0], image.dtype, image.device) != (first.shape[0], first.dtype, first.device):
            raise ValueError(
                f"images[{k}]: wanted {first.shape[0]} channels, {first.dtype} on {first.device} as images[0] has, "
                f"got {image.shape[0]}, {image.dtype} on {image.device}"
            )


def require_image(image: object, name: str, least: int) -> None:
    """A finite float tensor (C, H, W) of at least ``least`` x ``least`` pixels."""
    if not isinstance(image, Tensor) or not image.is_floating_point():
        came = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise TypeError(f"{name}: wanted a float tensor (C, H, W), got {came}")
    if image.dim() != 3 or min(image.shape[1:]) < least or image.shape[0] == 0:
        raise ValueError(f"{name}: wanted (C, H, W) of at least {least} x {least}, got {tuple(image.shape)}")
    if not bool(image.isfinite().all()):
        raise ValueError(f"{name}: wanted finite numbers, got NaN or infinity")
