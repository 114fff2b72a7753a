"""What registration models are trained on: images of which pairs are made, or pairs as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..guard import Rowwise, rows_of, samples_in
from ..training.config import require_whole
from .fields import require_floating
from .overlap import check_labels
from .truth import Truth


@dataclass(frozen=True, kw_only=True)
class Images(Rowwise):
    """B images (B, 1, *spatial) and, where they are known, labels (integers) and masks (bool) of that shape."""

    images: Tensor
    labels: Tensor | None = None
    masks: Tensor | None = None


class ImageBatches:
    """Batches of whole images, each drawn uniformly and turned over along random axes.

    For the strategy `synthesised`, which makes pairs of them. The numbers are those of numpy's
    ``default_rng([seed, epoch, step])``. Square patches of 2D images: `fastattack.training.Patches` does as well.

    Args:
        images: (N, 1, *spatial) in [0, 1], 2D or 3D.
        labels: (N, 1, *spatial) integers, 0 the background; masks: (N, 1, *spatial) bool; as `Synthetic.pairs` takes.
        batch: images in a batch.
        flips: whether they are turned over.
        seed: >= 0.
        steps_per_epoch: default: as many as there are images, divided by ``batch``.

    Raises:
        TypeError, ValueError: parts that do not fit each other, or an option that cannot be.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        masks: Tensor | None = None,
        *,
        batch: int = 4,
        flips: bool = True,
        seed: int = 0,
        steps_per_epoch: int | None = None,
    ) -> None:
        _check_images(images)
        for name, part in (("labels", labels), ("masks", masks)):
            if part is not None and check_labels(part, name).shape != images.shape:
                raise ValueError(f"{name}: wanted {tuple(images.shape)} as the images are, got {tuple(part.shape)}")
        self.everything = Images(images=images, labels=labels, masks=masks)
        self.draws = _Draws(self.everything, batch, seed, steps_per_epoch)
        if not isinstance(flips, bool):
            raise TypeError(f"flips: wanted True or False, got {flips!r}")
        self.flips = flips
        self.steps_per_epoch = self.draws.steps_per_epoch

    def batch_at(self, epoch: int, step: int) -> Images:
        """The images of a step of an epoch, both counted from 0."""
        chosen, random = self.draws.at(epoch, step)
        dims = self.everything.images.dim() - 2
        turned = random.integers(2, size=(len(chosen), dims)) if self.flips else np.zeros((len(chosen), dims), int)

        def flipped(part: Tensor | None) -> Tensor | None:
            if part is None:
                return None
            rows = [
                row.flip([1 + k for k in range(dims) if turn[k]])
                for row, turn in zip(part[chosen], turned, strict=True)
            ]
            return torch.stack(rows)

        return self.everything.each(flipped)

    def describe(self) -> dict[str, Any]:
        """Checksums of the images, and the options."""
        return {"flips": self.flips, **self.draws.describe()}


class PairBatches:
    """Batches of pairs as they are, each drawn uniformly. For the strategy `as_given`.

    Args:
        truth: N pairs, truth.pair, and whatever is known of them.
        batch: pairs in a batch.
        seed: >= 0.
        steps_per_epoch: default: as many as there are pairs, divided by ``batch``.

    Raises:
        TypeError, ValueError: no pairs, parts that do not fit each other, or an option that cannot be.
    """

    def __init__(self, truth: Truth, *, batch: int = 4, seed: int = 0, steps_per_epoch: int | None = None) -> None:
        check_pairs(truth)
        self.truth = truth
        self.draws = _Draws(truth, batch, seed, steps_per_epoch)
        self.steps_per_epoch = self.draws.steps_per_epoch

    def batch_at(self, epoch: int, step: int) -> Truth:
        """The pairs of a step of an epoch, both counted from 0."""
        chosen, _ = self.draws.at(epoch, step)
        found: Truth = rows_of(self.truth, chosen, samples_in(self.truth.pair))
        return found

    def describe(self) -> dict[str, Any]:
        """Checksums of the pairs, and the options."""
        return self.draws.describe()


def check_pairs(truth: Any, name: str = "truth") -> Tensor:
    """The pairs of a truth, whose parts all have as many rows.

    Raises:
        TypeError, ValueError: no Truth, no pairs in it, or another number of rows in a part; it is named.
    """
    if not isinstance(truth, Truth):
        raise TypeError(f"{name}: wanted a fastattack.registration.Truth, got {type(truth).__name__}")
    pair = truth.pair
    if not isinstance(pair, Tensor) or not pair.is_floating_point():
        came = type(pair).__name__ if not isinstance(pair, Tensor) else pair.dtype
        raise TypeError(f"{name}.pair: wanted floating images (N, 2, *spatial), moving and fixed, got {came}")
    if pair.dim() not in (4, 5) or pair.shape[1] != 2 or not len(pair):
        raise ValueError(f"{name}.pair: wanted (N, 2, H, W) or (N, 2, D, H, W), N >= 1, got {tuple(pair.shape)}")
    for part, value in vars(truth).items():
        if value is not None and len(value) != len(pair):
            raise ValueError(f"{name}.{part}: wanted {len(pair)} rows, one for each pair, got {len(value)}")
    return pair


class _Draws:
    """Which rows a step takes: a pure function of (seed, epoch, step)."""

    def __init__(self, content: Rowwise, batch: int, seed: int, steps_per_epoch: int | None) -> None:
        require_whole(batch, "batch", 1)
        require_whole(seed, "seed", 0)
        self.content, self.count, self.batch, self.seed = content, samples_in(content), batch, seed
        self.steps_per_epoch = max(1, self.count // batch) if steps_per_epoch is None else steps_per_epoch
        require_whole(self.steps_per_epoch, "steps_per_epoch", 1)

    def at(self, epoch: int, step: int) -> tuple[Tensor, np.random.Generator]:
        random = np.random.default_rng([self.seed, epoch, step])
        return torch.from_numpy(random.integers(self.count, size=self.batch)), random

    def describe(self) -> dict[str, Any]:
        own = {"batch": self.batch, "seed": self.seed, "steps_per_epoch": self.steps_per_epoch}
        return {**own, "content": dict(vars(self.content))}


def _check_images(images: Any) -> None:
    require_floating(images, "images")
    if images.dim() not in (4, 5) or images.shape[1] != 1 or not images.numel():
        raise ValueError(f"images: wanted (N, 1, H, W) or (N, 1, D, H, W), N >= 1, got {tuple(images.shape)}")
