"""What MIGA goes down: what the restored image means, how it looks, and how the input looks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..guard import Rowwise, frozen
from .base import Objective, pair, sample_mean
from .classify import cross_entropy
from .pixel import mse

Weight = float | tuple[float, float] | Callable[[int, int], float]
"""Of a loss: a number, (first, last) of a straight line over the steps, or a function of (step, steps)."""


@dataclass(frozen=True)
class Meant(Rowwise):
    """What is compared with: ``noisy`` inputs y, ``restored`` images D(y), and the ``meaning`` for the task's loss."""

    noisy: Tensor
    restored: Tensor
    meaning: Any


@dataclass(frozen=True, kw_only=True)
class semantic:
    """L = lambda_mi L_MI + lambda_rec L_rec + lambda_com L_com, its sign turned (MIGA, arXiv 2503.06966).

    Of an output (y', D(y'), T(D(y'))) and a `Meant`. L_rec = mse + perceptual of D(y') beside D(y); L_com the same of
    y' beside y; L_MI is the task's loss where it tells how far the wanted meaning is (``towards``), else minus that.
    Images in [0, 1]; the losses are means over a sample. What has the weight 0 is not computed.

    Args:
        task_loss: of (T(D(y')), meaning), one for each sample.
        perceptual: a distance of two batches of images, one for each sample, beside the mean square; or None.
        towards: the meaning is the wanted one.
    """

    lambda_mi: float = 1.0
    lambda_rec: float = 1.0
    lambda_com: float = 1.0
    task_loss: Objective = cross_entropy
    perceptual: Objective | None = None
    towards: bool = False

    @property
    def parts(self) -> tuple[Objective, ...]:
        """The objectives that this one is made of."""
        return (self.task_loss,) if self.perceptual is None else (self.task_loss, self.perceptual)

    def losses(self, output: Any, target: Meant) -> dict[str, Tensor]:
        """The three losses (B,) without their weights, by the names "mi", "rec" and "com"; those of weight 0 not."""
        seen, restored, verdict = output[0], output[1], output[-1]
        found = {}
        if self.lambda_mi:
            loss = _each(self.task_loss, verdict, target.meaning, len(seen), "task_loss")
            found["mi"] = loss if self.towards else -loss
        if self.lambda_rec:
            found["rec"] = self._distance(restored, target.restored)
        if self.lambda_com:
            found["com"] = self._distance(seen, target.noisy)
        return found

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = pair(a, b)
        return mse(a, b) if self.perceptual is None else mse(a, b) + _each(self.perceptual, a, b, len(a), "perceptual")

    def __call__(self, output: Any, target: Meant) -> Tensor:
        weighted = [getattr(self, f"lambda_{name}") * loss for name, loss in self.losses(output, target).items()]
        if not weighted:  # a moment of weights that change
            return 0.0 * sample_mean(output[0])
        return -torch.stack(weighted).sum(0)


def _each(objective: Objective, output: Any, target: Any, batch: int, name: str) -> Tensor:
    with frozen(objective):  # where it is a network of the user's
        loss = objective(output, target)
    if not isinstance(loss, Tensor) or loss.shape != (batch,):
        got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"{name}: wanted one number for each sample, shape ({batch},), got {got}")
    return loss


@dataclass(frozen=True, kw_only=True)
class scheduled:
    """A `semantic` whose weights change with the steps."""

    base: semantic
    weights: tuple[Weight, Weight, Weight]

    @property
    def parts(self) -> tuple[Objective, ...]:
        return (self.base,)

    def at(self, step: int, steps: int) -> semantic:
        """The objective of one step; the last is judged with the weights of the step before it."""
        names = ("lambda_mi", "lambda_rec", "lambda_com")
        now = {n: weight_at(w, min(step, steps - 1), steps) for n, w in zip(names, self.weights, strict=True)}
        for name, weight in now.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"{name}: wanted finite weights >= 0, got {weight!r} at step {step}")
        mi, rec, com = now.values()
        return replace(self.base, lambda_mi=mi, lambda_rec=rec, lambda_com=com)

    def __call__(self, output: Any, target: Meant) -> Tensor:
        return self.at(0, 1)(output, target)


def weight_at(weight: Weight, step: int, steps: int) -> float:
    """The number that a weight is at a step."""
    if callable(weight):
        return float(weight(step, steps))
    if isinstance(weight, tuple):
        first, last = weight
        return first + (last - first) * step / max(1, steps - 1)
    return float(weight)
