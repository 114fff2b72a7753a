"""scikit-learn's handwritten digits (real, 8 x 8, embedded in the package), made 32 x 32, with a fixed split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fastattack.job import add_noise

SIZE = 32
SHIFT = 2  # pixels by which training images move, at most, in each direction


@dataclass(frozen=True)
class Digits:
    """Images (N, 1, 32, 32) in [0, 1] with labels (N,), those to train on and those to test on; disjoint."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def load_digits(seed: int = 0, *, test: int = 360) -> Digits:
    """The 1797 digits, bicubically upsampled and cut to [0, 1]; ``test`` of them, drawn by the seed, are kept apart.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    from sklearn import datasets

    found = datasets.load_digits()
    small = torch.tensor(found.images / 16, dtype=torch.float32)[:, None]
    images = functional.interpolate(small, size=(SIZE, SIZE), mode="bicubic", align_corners=False).clamp(0, 1)
    labels = torch.tensor(found.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return Digits(images[order[test:]], labels[order[test:]], images[order[:test]], labels[order[:test]])


def noisy(clean: Tensor, sigma: float, seed: int = 0) -> Tensor:
    """clean (N, C, H, W) plus N(0, (sigma / 255)^2); image k depends on (seed, k) alone."""
    return torch.stack([add_noise(x, sigma, seed, k) for k, x in enumerate(clean)])


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by its own few whole pixels; what comes in at the rim is black, as the digits' rims are."""
    moves = torch.randint(2 * SHIFT + 1, (len(images), 2), generator=generator).tolist()
    padded = functional.pad(images, (SHIFT,) * 4)
    height, width = images.shape[-2:]
    return torch.stack([p[:, t : t + height, s : s + width] for p, (t, s) in zip(padded, moves, strict=True)])


class DigitBatches:
    """Batches of shifted digits for `fastattack.training.train`: a function of (seed, epoch, step).

    Unlike `fastattack.training.Patches` nothing is turned or flipped: a turned 6 is another digit.
    """

    def __init__(self, images: Tensor, *, batch: int = 16, seed: int = 0) -> None:
        self.images, self.batch, self.seed = images, min(batch, len(images)), seed
        self.steps_per_epoch = max(1, len(images) // self.batch)

    def batch_at(self, epoch: int, step: int) -> Tensor:
        """Images (batch, 1, 32, 32) of a step of an epoch, both counted from 0."""
        order = torch.randperm(len(self.images), generator=self._generator(epoch, 0))
        rows = order[step * self.batch : (step + 1) * self.batch]
        return shifted(self.images[rows], self._generator(epoch, step + 1))

    def _generator(self, epoch: int, step: int) -> torch.Generator:
        return torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) * 1_000_003 + step)

    def describe(self) -> dict[str, Any]:
        total = float(self.images.double().sum())
        return {"digits": len(self.images), "sum": total, "batch": self.batch, "seed": self.seed, "shift": SHIFT}
