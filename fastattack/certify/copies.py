"""Noisy copies of images: which numbers they are made of, and the pass that makes them.

The noise of a copy is Philox of (seed, stage, draw, image id, copy, element): no batch split changes it, two stages of
a certificate share no number, and none is shared with other noise of the same seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..engine.naming import call_named
from ..inputs import check_input
from ..ops import check
from ..ops.reference_random import STREAM_COPIES, sample_words
from .noise import Noise

SELECT, ESTIMATE, ANSWER, CENTRE, SPREAD, CHOOSE = range(6)
"""What copies are for: choosing the class, its count, an answer to be attacked, a centre, distances, choosing noise."""

COPIES = 2**32
IMAGES = 2**31


@lru_cache(maxsize=1024)
def seed_of_stage(seed: int, stage: int, draw: int = 0) -> int:
    """64 bits of Philox: stages and draws have streams of their own."""
    check.whole(draw, "draw", 63)
    words = sample_words(torch.tensor([stage]), torch.tensor([draw]), seed, STREAM_COPIES)[0, 0].tolist()
    return int(words[0] | words[1] << 32)


def image_ids(sample_ids: Tensor | None, x: Tensor) -> Tensor:
    """The names of the images, (B,) on their device; 0 .. B-1 by default."""
    ids = check.ids_of(sample_ids, x)
    if ids is None:
        return torch.arange(len(x), device=x.device)
    if not (int(ids.min()) >= 0 and int(ids.max()) < IMAGES):
        raise ValueError(f"sample_ids: wanted numbers in 0 .. 2**31 - 1, got {int(ids.min())} to {int(ids.max())}")
    return ids


@dataclass(frozen=True)
class Copies:
    """``n`` noisy copies of each image of a batch.

    Attributes:
        x: (B, ...), finite.
        ids: (B,) from `image_ids`.
        seed: of the stage and draw.
        backend: of the kernels.
    """

    noise: Noise
    x: Tensor
    ids: Tensor
    n: int
    seed: int
    backend: str = "auto"

    def __len__(self) -> int:
        return self.n * len(self.x)

    def names(self, first: int = 0, size: int | None = None) -> Tensor:
        """(size,) int64 below 2**63: what names the copies ``first`` .., image id * 2**32 + copy."""
        end = len(self) if size is None else first + size
        at = torch.arange(first, end, device=self.x.device)
        return self.ids[at // self.n] * COPIES + at % self.n

    def through(self, model: Callable[..., Any], x: Tensor, first: int = 0) -> Any:
        """model(x) for x that holds the copies ``first`` ...

        What a model draws itself, by name (a purifier's noise), belongs to the copy and the stage: every copy has its
        own, whichever batch it is in.
        """
        return call_named(model, x, self.names(first, len(x)), self.seed >> 1)

    def write(self, out: Tensor, first: int) -> Tensor:
        """The copies ``first`` .. of all, image after image, into out (m, ...).

        A pass for each image that they belong to; the image itself is read from the cache, not repeated in memory.
        """
        at, end = first, first + len(out)
        while at < end:
            image, copy = divmod(at, self.n)
            size = min(end - at, self.n - copy)
            part = out[at - first : at - first + size]
            self.noise.write(part, self.x[image].expand_as(part), self.seed, self.names(at, size), self.backend)
            at += size
        return out

    def batches(self, size: int) -> Iterator[tuple[int, Tensor]]:
        """(number of the first, copies) in turn, all in one buffer that the next ones overwrite."""
        buffer = self.x.new_empty((min(size, len(self)), *self.x.shape[1:]))
        for first in range(0, len(self), len(buffer)):
            yield first, self.write(buffer[: min(len(buffer), len(self) - first)], first)


class Noisy(torch.autograd.Function):
    """(B, ...) -> n noisy copies of each, (B n, ...), image after image; the gradient is the sum over the copies."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, copies: Copies) -> Tensor:
        ctx.shape = (*x.shape[:1], copies.n, *x.shape[1:])
        return copies.write(x.new_empty((len(copies), *x.shape[1:])), 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.reshape(ctx.shape).sum(1), None


def checked(x: Tensor) -> Tensor:
    """A batch of finite float images, without a graph and contiguous."""
    check_input(x, None)
    return x.detach().contiguous()
