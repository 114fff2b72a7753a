"""The smallest perturbation that succeeds: CW, FMN and DDN."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..engine import Job, Models, Rule, Walk
from ..ops import check
from .base import Attack, Options, Unpack

ORDERS = {"linf": math.inf, "l2": 2, "l1": 1}
DUALS = {"linf": 1, "l2": 2, "l1": math.inf}


class Smallest(Attack):
    """Looks for the smallest perturbation with which the loss passes ``threshold`` (falls below it, if targeted).

    What it finds for a sample is its smallest success; where nothing succeeded, the point with the best loss, and
    ``success`` False. A sample that succeeds as it is comes back unchanged.
    """

    def seek(self, model: Models, options: Options, *, rule: Rule, needs_starts: bool = True, **fixed: Any) -> None:
        """`compose` without a ball."""
        name = type(self).__name__
        for option in ("eps", "random_start", "keep", "sparsity", "preserve_noise", "zero_mean"):
            if option in options:
                raise TypeError(f"{name}: {option} has no place in a search for the smallest perturbation")
        if options.get("stop") == "success":
            raise ValueError(f"stop: wanted None or 'converged' for {name} (the first success is not the smallest)")
        threshold = options.get("threshold")
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not math.isfinite(threshold):
            raise ValueError(f"threshold: wanted a finite number for {name}, got {threshold!r}")
        self.compose(
            model, options, rule=rule, ball=False, needs_starts=needs_starts, eps=None, random_start=False, **fixed
        )


class CW(Smallest):
    """The l2 attack of Carlini & Wagner (arXiv 1608.04644, section V.C) on classifiers and restorers alike.

    Minimises |x' - x|_2^2 + c max(threshold - loss, 0) with Adam, over w with x' = tanh(w) between the bounds, or over
    x' - x where there are none; c is searched by bisection for each sample, one value for each restart.

    What differs from the paper: any objective and threshold (the paper's f with confidence k is
    objective=fa.objectives.cw_margin(), threshold=k); ``initial_c=None`` starts at the c that a linear model would
    need, 2 (threshold - loss) / |gradient|^2, where the paper starts at 0.01; no early abort, but for
    stop="converged". Adam moves every pixel by about ``step`` at first: where the smallest perturbation is smaller
    than that by the pixel, as on denoisers, a smaller step or FMN finds less.

    Args:
        model: called as model(x); nn.Module or any callable; several in a list or dict make one attack on all.
        threshold: must be given: success is a loss above it, below it with targeted=True.
        steps: gradients for each c; restarts: values of c (the paper: 10000 and 20).
        step: learning rate of Adam, a number or (B,).
        initial_c: the first c, > 0, or None.
        bounds: (low, high) of the pixels, finite, or None.
        options: see `fastattack.attacks.base.Options`; eps, random_start and keep have no place here.

    Raises:
        ValueError, TypeError: an option that cannot be; the message names it.
    """

    def __init__(self, model: Models, *, initial_c: float | None = None, **options: Unpack[Options]) -> None:
        if options.get("norm", "l2") != "l2":
            raise ValueError(f"norm: wanted 'l2' for CW, got {options['norm']!r}")
        bounds = options.get("bounds")
        if bounds is not None:
            low, high = check.bounds_of(bounds, torch.float64)
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(f"bounds: wanted finite (low, high) with low < high for CW, or None, got {bounds}")
        if initial_c is not None and not (isinstance(initial_c, (int, float)) and 0 < initial_c < math.inf):
            raise ValueError(f"initial_c: wanted a number > 0, or None, got {initial_c!r}")
        self.seek(
            model, options, rule=partial(AdamWalk, initial_c=initial_c), needs_starts=False,
            norm="l2", steps=100, restarts=9, step=0.01,
        )  # fmt: skip


class FMN(Smallest):
    """Fast minimum-norm (Pintor et al., arXiv 2102.12827), "linf", "l2" and "l1".

    Steps along the gradient / |gradient|_2, projected onto a ball whose radius follows, for each sample: down by a
    factor 1 - gamma_k after a success, up by 1 + gamma_k else; before the first success it is where a linear model
    would succeed. Lengths and gamma fall along a cosine, to 1/100 of the first step and to gamma / 50.

    What differs from the paper: before the first success the radius is 1 + gamma_k times the linear estimate, because
    projections end a hair inside the ball and a success is a loss strictly past the threshold; no warm start.

    Args:
        model: called as model(x); nn.Module or any callable; several in a list or dict make one attack on all.
        threshold: must be given: success is a loss above it, below it with targeted=True. For classifiers
            objective=fa.objectives.cw_margin() with threshold=0.
        steps: gradients.
        step: l2 length of the first step, for every norm; a number or (B,).
        gamma: first relative change of the radius, in (0, 1).
        options: see `fastattack.attacks.base.Options`; eps, random_start, restarts and keep have no place here.

    Raises:
        ValueError, TypeError: an option that cannot be; the message names it.
    """

    def __init__(self, model: Models, *, gamma: float = 0.05, **options: Unpack[Options]) -> None:
        check_gamma(gamma)
        self.seek(model, options, rule=partial(FastWalk, gamma=gamma), norm="linf", steps=100, step=1.0)


class DDN(Smallest):
    """Decoupled direction and norm (Rony et al., arXiv 1811.09600): l2.

    Steps along the gradient / |gradient|_2 whose lengths fall along a cosine, then onto a sphere whose radius follows,
    for each sample: down by a factor 1 - gamma after a success, up by 1 + gamma else.

    What differs from the paper: any objective and threshold; a gradient of zero moves nothing; results are not rounded.

    Args:
        model: called as model(x); nn.Module or any callable; several in a list or dict make one attack on all.
        threshold: must be given: success is a loss above it, below it with targeted=True.
        steps: gradients.
        step: l2 length of the first step, a number or (B,); the last is 1/100 of it.
        gamma: relative change of the radius, in (0, 1).
        radius: of the first sphere.
        options: see `fastattack.attacks.base.Options`; eps, random_start, restarts and keep have no place here.

    Raises:
        ValueError, TypeError: an option that cannot be; the message names it.
    """

    def __init__(self, model: Models, *, gamma: float = 0.05, radius: float = 1.0, **options: Unpack[Options]) -> None:
        check_gamma(gamma)
        if not (isinstance(radius, (int, float)) and 0 < radius < math.inf):
            raise ValueError(f"radius: wanted a number > 0, got {radius!r}")
        if options.get("norm", "l2") != "l2":
            raise ValueError(f"norm: wanted 'l2' for DDN, got {options['norm']!r}")
        rule = partial(DecoupledWalk, gamma=gamma, radius=radius)
        self.seek(model, options, rule=rule, norm="l2", steps=100, step=1.0)


def check_gamma(gamma: float) -> None:
    if not (isinstance(gamma, (int, float)) and 0 < gamma < 1):
        raise ValueError(f"gamma: wanted a number between 0 and 1, got {gamma!r}")


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
