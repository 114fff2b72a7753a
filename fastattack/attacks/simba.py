"""SimBA: one coordinate of an orthonormal basis at a time, without gradients."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from ..engine import Job, Models
from .base import Attack, Options, Unpack
from .queries import Proposing, check_queries, query_words, spread

BASES = ("pixel", "dct")


class SimBA(Attack):
    """Simple black-box attack (Guo et al., arXiv 1905.07121), on restorers and classifiers alike.

    For one direction q of an orthonormal basis after the other: try x + step q, then x - step q where that was no good.
    The order is random for each sample, Philox of (seed, sample id). The first query is x itself, each later one a try.

    After k accepted tries |x' - x|_2 <= step sqrt(k), with equality while neither ball nor bounds cut: with
    norm="l2" the ball is full after (eps / step)^2 of them, and what comes later shrinks what came before. The paper
    has no ball; eps = step sqrt(queries) gives its attack. Where the basis is used up, it begins again in the same
    order (the authors stop).

    Args:
        model: called as model(x); nothing is differentiated.
        eps: radius on the scale of the images; a float or (B,).
        queries: forward passes of each restart; ``steps_used`` of the result tells how many each sample took.
        basis: "pixel", for inputs of any shape, or "dct": cosines over the whole image, low frequencies first.
        frequencies, stride: for "dct": the block of frequencies < ``frequencies`` comes first, in random order, then
            rings of ``stride`` more. None: an eighth of the shorter side, and a quarter of that (28 and 7 at 224).
        options: see `Options`; ``step`` is the length of a try, 0.2 as in the paper.

    Raises:
        ValueError, TypeError: an option that cannot be, or for "dct" inputs that are not (B, C, H, W).
    """

    def __init__(
        self,
        model: Models,
        *,
        eps: float | Tensor,
        queries: int = 5000,
        basis: str = "pixel",
        frequencies: int | None = None,
        stride: int | None = None,
        **options: Unpack[Options],
    ) -> None:
        check_queries("SimBA", queries, options, ())
        if basis not in BASES:
            raise ValueError(f"basis: wanted 'pixel' or 'dct', got {basis!r}")
        for name, value in (("frequencies", frequencies), ("stride", stride)):
            if value is None:
                continue
            if basis == "pixel":
                raise TypeError(f"SimBA: {name} has no meaning with basis='pixel'")
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: wanted a whole number >= 1, got {value!r}")
        if "step" in options and options["step"] is None:
            raise ValueError("step: wanted the length of a try, got None")
        cosines = partial(Cosines, frequencies=frequencies, stride=stride)
        self.compose(model, options, rule=Pixels if basis == "pixel" else cosines, eps=eps, steps=queries, step=0.2)


class Pixels(Proposing):
    """One element after the other.

    Attributes:
        order: (B, n), the directions in the order in which each sample tries them.
        tried: (B,), directions behind the sample.
        up: (B,) bool, the next try is x + step q.
    """

    def start(self, restart: int) -> None:
        super().start(restart)
        job, count = self.job, self.adv[0].numel()
        words = query_words(count, job.ids, self.seed, 0, 1)[:, 0]
        order = (words + (self.ring().flatten() << 32)).argsort(dim=1, stable=True)
        self.order = order[:, : job.schedule.steps].clone()
        self.tried = torch.zeros_like(job.ids)
        self.up = torch.ones_like(job.ids, dtype=torch.bool)

    def ring(self) -> Tensor:
        """(...,) whole numbers: directions with a smaller one come first."""
        return torch.zeros(self.adv.shape[1:], dtype=torch.int64, device=self.adv.device)

    def direction(self, index: Tensor) -> Tensor:
        """(B, ...) of norm 1."""
        places = torch.arange(self.adv[0].numel(), device=index.device)
        return (places == index[:, None]).to(self.adv.dtype).reshape(self.adv.shape)

    def point(self, step: int) -> Tensor:
        self.candidate.copy_(self.adv)
        if step > 0:
            index = self.order.gather(1, (self.tried % self.order.shape[1])[:, None])[:, 0]
            direction = self.direction(index)
            length = torch.as_tensor(self.job.step, dtype=direction.dtype, device=direction.device).abs()
            signed = torch.where(self.up, length, -length)
            self.candidate.add_(direction * spread(signed, direction))
            self.job.project(self.candidate)
        return self.job.on_grid(self.candidate)

    def learn(self, step: int, loss: Tensor, grad: Tensor | None) -> None:
        better = self.accept(loss)
        if step > 0:
            self.up = better | ~self.up  # both ways were tried, or the first was good: the next direction
            self.tried = self.tried + self.up


class Cosines(Pixels):
    """The basis of the two-dimensional DCT-II of each channel."""

    def __init__(self, job: Job, *, frequencies: int | None, stride: int | None) -> None:
        super().__init__(job)
        if self.adv.dim() != 4:
            raise ValueError(f"input: wanted images (B, C, H, W) with basis='dct', got shape {tuple(self.adv.shape)}")
        self.low = max(min(self.adv.shape[2:]) // 8, 1) if frequencies is None else frequencies
        self.stride = max(self.low // 4, 1) if stride is None else stride
        wide = torch.promote_types(self.adv.dtype, torch.float32)
        # In a dictionary: a tensor with as many rows as the batch would be cut with it.
        self.waves = {axis: cosines(self.adv.shape[axis]).to(self.adv.device, wide) for axis in (2, 3)}

    def ring(self) -> Tensor:
        v, u = (torch.arange(n, device=self.adv.device) for n in self.adv.shape[2:])
        highest = torch.maximum(v[:, None], u[None, :])
        rings = torch.where(highest < self.low, 0, 1 + (highest - self.low) // self.stride)
        return rings.expand(self.adv.shape[1:])

    def direction(self, index: Tensor) -> Tensor:
        channels, height, width = self.adv.shape[1:]
        down, across = self.waves[2][index // width % height], self.waves[3][index % width]
        chosen = torch.arange(channels, device=index.device) == (index // (height * width))[:, None]
        return down[:, None, :, None] * across[:, None, None, :] * chosen[:, :, None, None]


def cosines(size: int) -> Tensor:
    """(size, size) float64: the orthonormal rows of the DCT-II."""
    places = torch.arange(size, dtype=torch.float64)
    waves = torch.cos(math.pi / size * (places[None, :] + 0.5) * places[:, None]) * math.sqrt(2 / size)
    waves[0] /= math.sqrt(2)
    return waves
