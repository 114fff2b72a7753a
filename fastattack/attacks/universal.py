"""One perturbation for a whole data set."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import engine
from ..engine import Models, Moment, Progress, Source, Wrapped
from ..engine.combine import losses
from ..guard import Rowwise, random_state, rows_of
from ..inputs import check_input, check_target
from ..objectives import Objective
from ..ops import check, project_
from ..ops.backend import Backend
from ..threat import Threat
from .base import Attack, AttackResult, Options, Unpack

Batches = Iterable[tuple[Tensor, Any]]


@dataclass(frozen=True)
class UniversalResult:
    """perturbation (1, ...) like one sample; loss: mean objective over the data; steps: gradients taken."""

    perturbation: Tensor
    loss: float
    steps: int
    seconds: float
    complete: bool = True


class OverData(Wrapped):
    """The mean loss of x_i + perturbation over the data, as the loss of one "sample": the perturbation (1, ...)."""

    def __init__(
        self, inner: Source, data: Batches, per_step: int | None, bounds: tuple[float, float] | None, table: Backend
    ) -> None:
        super().__init__(inner)
        self.data, self.per_step, self.bounds, self.table = data, per_step, bounds, table
        self.faithful = per_step is None  # else the loss beside a gradient is that of a part of the data
        self._coming: Iterator[tuple[Tensor, Any]] = iter(())
        self._place = 0  # in the data, of the sample that comes next

    def _shifted(self, x: Tensor, delta: Tensor) -> Tensor:
        moved = x + delta
        return moved if self.bounds is None else moved.clamp(*self.bounds)

    def value(self, x: Tensor, target: Any, objective: Objective, moment: Moment) -> Tensor:
        total, count = torch.zeros((), dtype=torch.float64, device=x.device), 0
        for batch, goal in self.data:
            of_samples = moment.named(torch.arange(count, count + len(batch), device=x.device))
            loss = self.inner.value(self._shifted(batch.to(x), x), _on(goal, x), objective, of_samples)
            total, count = total + loss.double().sum(), count + len(batch)
        return (total / _mean_over(count)).reshape(1)

    def gradient(self, x: Tensor, target: Any, objective: Objective, moment: Moment) -> tuple[Tensor, Tensor]:
        total, loss, count = torch.zeros_like(x), torch.zeros((), dtype=torch.float64, device=x.device), 0
        for first, batch, goal in self._batches():
            with torch.enable_grad():
                leaf = x.detach().requires_grad_(True)
                seen = self._shifted(batch.to(x), leaf)
            of_samples = moment.named(torch.arange(first, first + len(batch), device=x.device))
            here, outer = self.inner.gradient(seen.detach(), _on(goal, x), objective, of_samples)
            (grad,) = torch.autograd.grad(seen, leaf, outer)
            self.table.accumulate(total, grad, 1.0, 1.0)
            loss, count = loss + here.double().sum(), count + len(batch)
        return (loss / _mean_over(count)).reshape(1), total.div_(count)

    def _batches(self) -> Iterator[tuple[int, Tensor, Any]]:
        """All of the data, or the next ``per_step`` batches, round and round, each behind its first sample's place."""
        if self.per_step is None:
            self._coming, self._place = iter(self.data), 0
        taken = 0
        while self.per_step is None or taken < self.per_step:
            batch = next(self._coming, None)
            if batch is None and self.per_step is not None:
                self._coming, self._place = iter(self.data), 0
                batch = next(self._coming, None)
            if batch is None:
                return
            first, taken = self._place, taken + 1
            self._place += len(batch[0])
            yield first, *batch


def _first(data: Batches) -> Tensor:
    """The samples of the first batch; the random state, which a shuffling loader draws from, stays as found."""
    wanted = "data: wanted a tensor, or an iterable of (x, target) batches that can be walked again"
    if not isinstance(data, Iterable):
        raise TypeError(f"{wanted}, got {type(data).__name__}")
    with random_state(torch.device("cpu")):
        walk = iter(data)
        if walk is data:
            raise ValueError(f"{wanted}, got the {type(data).__name__} of one walk; pass list(data) or a DataLoader")
        first = next(walk, None)
    if first is None:
        raise ValueError(f"{wanted}, got none")
    if not isinstance(first, (tuple, list)) or len(first) != 2 or not isinstance(first[0], Tensor):
        raise ValueError(f"{wanted}, got a {type(first).__name__} as the first")
    if not first[0].numel():
        raise ValueError(f"data: wanted at least one sample, got a first batch of shape {tuple(first[0].shape)}")
    return first[0]


def _mean_over(count: int) -> int:
    """``count``, or the error that there is nothing to take the mean of."""
    if count == 0:
        raise ValueError("data: wanted batches that can be walked again and again, got no samples on a later walk")
    return count


def _on(goal: Any, like: Tensor) -> Any:
    if isinstance(goal, Rowwise):
        return goal.each(lambda part: _on(part, like))
    return goal.to(like.device) if isinstance(goal, Tensor) else goal


class Universal(Attack):
    """A universal perturbation (Moosavi-Dezfooli et al., arXiv 1610.08401), by projected gradient on the mean loss.

    This project's formulation: max over |delta|_p <= eps of mean_i objective(model(clip(x_i + delta)), target_i), by
    the steps of PGD on the one perturbation (Shafahi et al., arXiv 1811.11304).

    Args:
        model: called as model(x), or several.
        eps: radius of the perturbation on the scale of x, one number.
        batch: samples that go through the model at a time.
        per_step: batches for each step (stochastic steps); None means all of the data in each.
        options: see `Options`; the pixels x_i + delta are clipped to ``bounds``. Masks, grids, noise constraints and
            per-sample radii have no meaning here.

    Raises:
        ValueError, TypeError: an option that cannot be; the message names it.
    """

    def __init__(
        self,
        model: Models,
        *,
        eps: float,
        batch: int = 32,
        per_step: int | None = None,
        **options: Unpack[Options],
    ) -> None:
        bounds = options.pop("bounds", None)
        for name in ("grid", "max_batch"):
            if name in options:
                raise TypeError(f"Universal: {name} has no place here" + ("; use batch" if name == "max_batch" else ""))
        for name, value in (("batch", batch), ("per_step", per_step)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name}: wanted a whole number >= 1, got {value!r}")
        if isinstance(eps, Tensor) and eps.numel() != 1:
            raise ValueError(f"eps: wanted one radius for the one perturbation, got shape {tuple(eps.shape)}")
        check.bounds_of(bounds, torch.float32)
        self.batch, self.per_step, self.pixels = batch, per_step, bounds
        self.compose(model, options, eps=float(eps), random_start=False)

    def fit(
        self,
        data: Tensor | Batches,
        target: Any = None,
        *,
        progress: Callable[[Progress], None] | None = None,
    ) -> UniversalResult:
        """The perturbation for the data.

        Args:
            data: samples (N, ...), with ``target`` beside them; or an iterable of (x, target) batches that can be
                walked again and again, such as a DataLoader or a list; not a generator.
            progress: called after each step with a `Progress`, its loss (1,) the mean.

        Raises:
            TypeError, ValueError: data that cannot be. NonFiniteError: NaN or infinity on the way.
        """
        if isinstance(data, Tensor):
            check_input(data, self.pixels)
            check_target(target)
            batches: Batches = _Cut(data.detach(), target, self.batch)
        else:
            batches = data
        origin = torch.zeros_like(_first(batches)[:1], memory_format=torch.contiguous_format)

        def over(source: Source, table: Backend) -> Source:
            return OverData(source, batches, self.per_step, self.pixels, table)

        found = engine.attack(
            self.model, origin, None, objective=self.objective, threat=self.threat, schedule=self.schedule,
            rule=self.rule, ensemble=self.ensemble, view=self.view, smooth=self.smooth, wrap=over, progress=progress,
            speed=self.speed,
        )  # fmt: skip
        return UniversalResult(
            found.adversarial, float(found.loss), int(found.steps_used), found.seconds, found.complete
        )

    def apply(self, x: Tensor, perturbation: Tensor) -> Tensor:
        """x + perturbation, inside the bounds and the ball: a sum rounded to nearest can lie beyond it."""
        return shifted(x, perturbation, self.threat, self.pixels)

    def __call__(self, x: Tensor, target: Any, **options: Any) -> Tensor:
        """x with the perturbation that was found on x itself."""
        return self.run(x, target, **options).adversarial

    def run(
        self,
        x: Tensor,
        target: Any,
        *,
        mask: Tensor | None = None,
        sample_ids: Tensor | None = None,
        start: Tensor | None = None,
        clean: Tensor | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> AttackResult:
        """`fit` on x, then `apply`; the losses in the result are each sample's own, at the price of a forward pass."""
        for name, value in (("mask", mask), ("sample_ids", sample_ids), ("start", start), ("clean", clean)):
            if value is not None:
                raise ValueError(f"{name}: wanted None for a universal perturbation, which is one for all samples")
        began = time.perf_counter()
        found = self.fit(x, target, progress=progress)
        steps = torch.full((len(x),), found.steps, device=x.device)
        zero = torch.zeros_like(steps)
        adversarial = self.apply(x.detach(), found.perturbation)
        loss = losses(
            self.model, _Cut(adversarial, _on(target, x), self.batch), objective=self.objective, schedule=self.schedule,
            ensemble=self.ensemble,
        )  # fmt: skip
        return AttackResult(
            adversarial, loss, steps, zero, steps, None, None, time.perf_counter() - began, found.complete,
            self._successes(loss),
        )  # fmt: skip


def shifted(x: Tensor, perturbation: Tensor, threat: Threat, bounds: tuple[float, float] | None) -> Tensor:
    """x + perturbation as a constant, inside the threat's ball around x and the bounds."""
    assert threat.eps is not None, "a universal perturbation has a radius"
    origin = x.detach()
    return project_(origin + perturbation.to(x), origin, norm=threat.norm, eps=threat.eps, bounds=bounds)


@dataclass(frozen=True)
class _Cut:
    """Tensors as batches that can be walked again."""

    x: Tensor
    target: Any
    size: int

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]:
        count = len(self.x)
        for first in range(0, count, self.size):
            rows = slice(first, first + self.size)
            yield self.x[rows], rows_of(self.target, rows, count)
