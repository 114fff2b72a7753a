"""What black-box attacks share: a walk that keeps a proposal where it is better, and the numbers it draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..engine import Job, Walk
from ..ops.backend import Scalar
from ..ops.reference_random import STREAM_QUERY, philox

MOST_QUERIES = 2**24  # the query's number shares a 32-bit counter with the stream's
_AHEAD = 32  # queries whose numbers are drawn at once: Philox in torch is many small calls
_WORD = 0xFFFFFFFF


def query_words(count: int, ids: Tensor, seed: int, first: int, queries: int) -> Tensor:
    """Words (B, queries, count) of 32 bits, Philox of (seed, sample id, query): the same in every batch split."""
    quads = torch.arange((count + 3) // 4, device=ids.device)[None, None, :]
    numbers = torch.arange(first, first + queries, device=ids.device)[None, :, None]
    name = ids[:, None, None]
    words = philox(quads, name & _WORD, (name >> 32) & _WORD, STREAM_QUERY + (numbers << 8), seed)
    return torch.stack(words, -1).flatten(2)[:, :, :count]


def below(word: Tensor, count: int) -> Tensor:
    """Uniform whole numbers 0 .. count - 1 from words."""
    return (word * count) >> 32


class Proposing(Walk):
    """Random search: each query looks at a proposal, and the walk goes there where it is better.

    Subclasses give ``point`` and put the proposal into ``candidate``.

    Attributes:
        candidate: (B, ...), the proposal that was looked at last; inside the threat.
        value: (B,) float64, the objective at ``adv``, larger is better.
        draws: words that a query after the first needs.
    """

    needs_gradient = False
    last_look = False
    free_start = False
    draws = 0

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.candidate = torch.empty_like(self.adv)
        self.seed = job.schedule.seed
        self.drawn = job.ids[:, None, None]

    def start(self, restart: int) -> None:
        self.seed = self.job.schedule.restart_seed(restart)
        self.adv.copy_(self.job.origin)
        self.value = torch.full((self.job.batch,), float("-inf"), dtype=torch.float64, device=self.adv.device)

    def words(self, step: int) -> Tensor:
        """(B, draws) of query ``step`` >= 1."""
        place = (step - 1) % _AHEAD
        if place == 0:
            self.drawn = query_words(self.draws, self.job.ids, self.seed, step, _AHEAD)
        return self.drawn[:, place]

    def learn(self, step: int, loss: Tensor, grad: Tensor | None) -> None:
        self.accept(loss)

    def accept(self, loss: Tensor) -> Tensor:
        """Go to the candidate where it is better; (B,) bool says where. A NaN is never better."""
        value = loss.double() * self.job.sign
        better = value > self.value
        self.value = torch.where(better, value, self.value)
        torch.where(each(better, self.adv), self.candidate, self.adv, out=self.adv)
        return better


def each(value: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, ...)."""
    return value.reshape(-1, *[1] * (like.dim() - 1))


def spread(value: Scalar, like: Tensor) -> Tensor | float:
    """A number, or (B,) as (B, 1, ...) in the type of ``like``."""
    return each(value.to(like), like) if isinstance(value, Tensor) else value


def check_queries(
    attack: str, queries: Any, options: Mapping[str, Any], meaningless: tuple[str, ...],
    norms: tuple[str, ...] = ("linf", "l2"),
) -> None:  # fmt: skip
    """The query budget, and options that have no place in a black-box attack."""
    if isinstance(queries, bool) or not isinstance(queries, int) or not 1 <= queries <= MOST_QUERIES:
        raise ValueError(f"queries: wanted a whole number from 1 to {MOST_QUERIES}, got {queries!r}")
    if "steps" in options:
        raise TypeError(f"{attack}: steps has no place here; queries= is the budget")
    for name in (*meaningless, "keep", "random_start", "sparsity", "preserve_noise", "zero_mean"):
        if name in options:
            raise TypeError(f"{attack}: {name} has no meaning in this attack")
    if hasattr(options.get("objective"), "at"):
        raise ValueError(
            "objective: wanted one whose losses compare between queries, got one that changes with the step"
        )
    if options.get("norm", "linf") == "l1" and "l1" not in norms:
        raise ValueError("norm: wanted 'linf' or 'l2', got 'l1'")
