"""How attacks walk that look for the smallest perturbation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..engine import Job, Walk
from ..ops import check

ORDERS = {"linf": math.inf, "l2": 2, "l1": 1}
DUALS = {"linf": 1, "l2": 2, "l1": math.inf}


class SmallestWalk(Walk):
    """Successes before failures, smaller ones before larger ones."""

    tells_success = True
    free_start = False

    def start(self, restart: int) -> None:
        self.adv.copy_(self.job.origin)

    def margin(self, loss: Tensor) -> Tensor:
        """(B,) float64: how far the loss is past the threshold."""
        threshold = self.job.schedule.threshold
        assert threshold is not None, "checked by Smallest.seek"
        return (loss.double() - threshold) * self.job.sign

    def distance(self, x: Tensor) -> Tensor:
        return self.size(x - self.job.origin, ORDERS[self.job.norm])

    def size(self, t: Tensor, order: float) -> Tensor:
        """(B,) float64 norms."""
        norms: Tensor = torch.linalg.vector_norm(t, order, dim=tuple(range(1, t.dim())), dtype=torch.float64)
        return norms

    def score(self, x: Tensor, loss: Tensor) -> tuple[Tensor | None, Tensor]:
        margin = self.margin(loss)
        return margin > 0, torch.where(margin > 0, -self.distance(x), margin)

    def free(self, grad: Tensor) -> Tensor:
        """The gradient where pixels may move."""
        return grad if self.job.mask is None else torch.where(self.job.mask, grad, 0)

    def wide(self, numbers: Tensor) -> Tensor:
        """(B,) as (B, 1, ...), in the type that the images are computed in."""
        real = torch.float64 if self.adv.dtype is torch.float64 else torch.float32
        return numbers.to(real).reshape(-1, *[1] * (self.adv.dim() - 1))


def cosine(step: int, steps: int, last: float) -> float:
    """From 1 down to ``last``."""
    return last + (1 - last) * (1 + math.cos(math.pi * step / steps)) / 2


class FastWalk(SmallestWalk):
    """FMN, algorithm 1 of arXiv 2102.12827."""

    def __init__(self, job: Job, *, gamma: float) -> None:
        super().__init__(job)
        self.gamma = gamma
        self.radius = torch.full((job.batch,), math.inf, dtype=torch.float64, device=job.origin.device)
        self.smallest = self.radius.clone()
        self.found = torch.zeros_like(self.radius, dtype=torch.bool)

    def learn(self, step: int, loss: Tensor, grad: Tensor | None) -> None:
        assert grad is not None, "a walk that needs gradients gets them"
        job, steps = self.job, self.job.schedule.steps
        gamma = self.gamma * cosine(step, steps, 0.02)
        self._resize(self.margin(loss), self.size(self.free(grad), DUALS[job.norm]), gamma)
        length = job.step * cosine(step, steps, 0.01)
        if job.norm == "l2":
            job.table.pgd_step(self.adv, grad, job.origin, job.mask, "l2", self.radius, length, job.bounds)
        else:
            job.table.pgd_step(self.adv, grad, job.origin, job.mask, "l2", math.inf, length, check.UNBOUNDED)
            job.project(self.adv, self.radius)
        job.changed(self.adv)

    def _resize(self, margin: Tensor, slope: Tensor, gamma: float) -> None:
        """The radius of the next ball."""
        success, distance = margin > 0, self.distance(self.adv)
        self.smallest = torch.where(success, torch.minimum(self.smallest, distance), self.smallest)
        self.found = self.found | success
        linear = distance + torch.where(slope > 0, -margin / slope, math.inf)
        larger = torch.where(self.found, self.radius, linear) * (1 + gamma)
        smaller = torch.minimum(self.radius * (1 - gamma), self.smallest)
        self.radius = torch.where(success, smaller, larger)


class DecoupledWalk(SmallestWalk):
    """DDN, algorithm 1 of arXiv 1811.09600."""

    def __init__(self, job: Job, *, gamma: float, radius: float) -> None:
        super().__init__(job)
        self.gamma = gamma
        self.radius = torch.full((job.batch,), radius, dtype=torch.float64, device=job.origin.device)

    def learn(self, step: int, loss: Tensor, grad: Tensor | None) -> None:
        assert grad is not None, "a walk that needs gradients gets them"
        job = self.job
        smaller, larger = self.radius * (1 - self.gamma), self.radius * (1 + self.gamma)
        self.radius = torch.where(self.margin(loss) > 0, smaller, larger)
        length = job.step * cosine(step, job.schedule.steps, 0.01)
        job.table.pgd_step(self.adv, grad, job.origin, job.mask, "l2", math.inf, length, check.UNBOUNDED)
        torch.autograd.graph.increment_version(self.adv)
        delta = self.adv - job.origin
        norm = self.size(delta, 2)
        scale = torch.where(norm > 0, self.radius / norm, 1.0)
        self.adv.copy_(job.origin + self.wide(scale) * delta).clamp_(*job.bounds)


class AdamWalk(SmallestWalk):
    """Carlini & Wagner: Adam over w, and a bisection over c from restart to restart.

    Attributes:
        w: what Adam moves: tanh(w) spans the bounds, or w is the perturbation itself where there are none.
        c, lower, upper: (B,) float64; found: (B,) bool, a success with this c.
    """

    def __init__(self, job: Job, *, initial_c: float | None) -> None:
        super().__init__(job)
        low, high = job.bounds
        self.boxed = math.isfinite(low)
        self.centre, self.half = ((low + high) / 2, (high - low) / 2) if self.boxed else (0.0, 1.0)
        first = math.nan if initial_c is None else float(initial_c)
        self.c = torch.full((job.batch,), first, dtype=torch.float64, device=job.origin.device)
        self.lower, self.upper = torch.zeros_like(self.c), torch.full_like(self.c, math.inf)
        self.found = torch.zeros_like(self.c, dtype=torch.bool)
        self.w = self._back()
        self.mean, self.square = torch.zeros_like(self.w), torch.zeros_like(self.w)

    def _back(self) -> Tensor:
        """w of the input. Where a pixel lies on a bound, w is finite."""
        origin = self.job.origin
        x = origin.to(torch.float64 if origin.dtype is torch.float64 else torch.float32)
        return ((x - self.centre) / self.half * (1 - 1e-6)).atanh() if self.boxed else torch.zeros_like(x)

    def start(self, restart: int) -> None:
        super().start(restart)
        if restart > 0:
            self._bisect()
        self.found = torch.zeros_like(self.found)
        self.w = self._back()
        self.mean, self.square = torch.zeros_like(self.w), torch.zeros_like(self.w)

    def _bisect(self) -> None:
        self.upper = torch.where(self.found, torch.minimum(self.upper, self.c), self.upper)
        self.lower = torch.where(self.found, self.lower, torch.maximum(self.lower, self.c))
        between = (self.lower + self.upper) / 2
        self.c = torch.where(self.upper < math.inf, between, self.c * 10)

    def learn(self, step: int, loss: Tensor, grad: Tensor | None) -> None:
        assert grad is not None, "a walk that needs gradients gets them"
        job, margin = self.job, self.margin(loss)
        self.found = self.found | ((margin > 0) & ~job.finished())  # what comes after the end belongs to no sample
        self._first_c(margin, grad)
        weight = torch.where(margin > 0, 0.0, self.c) * job.sign
        slope = 2 * (self.adv - job.origin) - self.wide(weight) * grad
        slope = self.free(slope)
        if self.boxed:
            slope = slope * (self.half * (1 - self.w.tanh().square()))
        self._adam(step + 1, slope)
        x = self.centre + self.half * self.w.tanh() if self.boxed else job.origin + self.w
        self.adv.copy_(x).clamp_(*job.bounds)
        if job.mask is not None:
            torch.where(job.mask, self.adv, job.origin, out=self.adv)

    def _first_c(self, margin: Tensor, grad: Tensor) -> None:
        """Where there is no c yet: the one with which a linear model meets the threshold."""
        square = self.size(self.free(grad), 2).square()
        linear = torch.where((margin < 0) & (square > 0), -2 * margin / square, 1.0)
        self.c = torch.where(self.c.isnan(), linear, self.c)

    def _adam(self, time: int, slope: Tensor) -> None:
        """Kingma & Ba, arXiv 1412.6980, with their constants."""
        rate = abs(self.job.step) if isinstance(self.job.step, float) else self.wide(self.job.step.abs())
        self.mean.lerp_(slope, 0.1)
        self.square.mul_(0.999).addcmul_(slope, slope, value=0.001)
        root = (self.square / (1 - 0.999**time)).sqrt_().add_(1e-8)
        self.w -= self.mean / root * (rate / (1 - 0.9**time))
