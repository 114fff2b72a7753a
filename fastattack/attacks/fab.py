"""FAB: the smallest perturbation by steps onto the linearised boundary."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..engine import Job, Models, Moment, Source, Wrapped
from ..objectives import Objective
from ..objectives.classify import cw_margin, logit_difference
from ..ops import l1
from ..ops.backend import Backend
from .base import Options, Unpack
from .hyperplane import way_onto
from .minimal import Smallest
from .smallest import DUALS, ORDERS, SmallestWalk


class FAB(Smallest):
    """Fast adaptive boundary attack (Croce & Hein, arXiv 1907.02044, algorithm 1), "linf", "l2" and "l1".

    Each step linearises the loss, goes onto the plane where it meets the threshold, inside the bounds, by the shortest
    way from the iterate and from the input, and mixes the two points, each overshot by ``eta``. A success is kept, and
    the walk goes on from between it and the input. There is no step size to tune.

    A step costs a gradient and a forward pass that judges the new point, as the authors' code does. The paper's
    untargeted attack looks at the boundaries to all other classes, a gradient for each: ``classes=True`` with all of
    them in the target. With one class in the target it is the targeted attack FAB-T (arXiv 2003.01690). Without
    ``classes`` it is one boundary, loss = threshold, of any objective: with fa.objectives.cw_margin() that of the
    largest other logit, at the price of one gradient.

    What differs from the paper: restarts begin anywhere in the ball of half the radius, not on its surface (linf, l1);
    no search along the last segment at the end, which the authors' AutoAttack has not either.

    Args:
        model: called as model(x); nn.Module or any callable; several in a list or dict make one attack on all.
        threshold: must be given: success is a loss above it, below it with targeted=True. With ``classes`` it is 0.
        classes: the target is (B, 1 + K) int64, the label before the K classes whose boundaries count; success is any
            other class than the label. ``objective`` and ``targeted`` have no place then.
        steps: of each restart.
        restarts: the first begins at the input, others at random, at most half of min(``radius``, the smallest success
            so far) away.
        alpha_max: the input's largest share in the mix, in [0, 1].
        eta: overshoot, >= 1.
        beta: share of the perturbation that is kept after a success, in (0, 1).
        radius: for the restarts, > 0; needed for more than one.
        enough: a sample ends with a perturbation of this size or less; None: all steps for all.
        bounds: (low, high) of the pixels, or None. Classifiers want (0, 1).
        options: see `fastattack.attacks.base.Options`; eps, step, stop, random_start and keep have no place here.

    Raises:
        ValueError, TypeError: an option that cannot be; the message names it.
    """

    def __init__(
        self,
        model: Models,
        *,
        classes: bool = False,
        alpha_max: float = 0.1,
        eta: float = 1.05,
        beta: float = 0.9,
        radius: float | None = None,
        enough: float | None = None,
        **options: Unpack[Options],
    ) -> None:
        if not isinstance(classes, bool):
            raise TypeError(f"classes: wanted True or False, got {classes!r}")
        if classes:
            _check_classes(options)
            options = {**options, "objective": cw_margin(), "threshold": 0.0}
        for name, hint in (("step", ""), ("stop", "; enough= ends a sample")):
            if name in options:
                raise TypeError(f"FAB: {name} has no place here{hint}")
        _check("alpha_max", alpha_max, lambda v: 0 <= v <= 1, "from 0 to 1")
        _check("eta", eta, lambda v: 1 <= v < math.inf, ">= 1")
        _check("beta", beta, lambda v: 0 < v < 1, "between 0 and 1")
        for name, size in (("radius", radius), ("enough", enough)):
            if size is not None:
                _check(name, size, lambda v: 0 < v < math.inf, "> 0, or None")
        if radius is None and options.get("restarts", 1) != 1:
            raise ValueError("radius: wanted a number > 0 with more than one restart, got None")
        rule = partial(BoundaryWalk, alpha_max=alpha_max, eta=eta, beta=beta, radius=radius, enough=enough)
        stop = None if enough is None else "success"
        self.seek(
            model, options, rule=rule, needs_starts=False, norm="linf", steps=100, step=1.0, stop=stop
        )  # fmt: skip
        if classes:
            self.wrap = partial(Boundaries, norm=self.threat.norm)


def _check_classes(options: Any) -> None:
    for name in ("objective", "targeted"):
        if name in options:
            raise TypeError(f"FAB: {name} has no place beside classes=True")
    if options.get("threshold", 0) != 0:
        raise ValueError(f"threshold: wanted 0 beside classes=True, got {options['threshold']!r}")


def _check(name: str, value: Any, fits: Callable[[float], bool], wanted: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not fits(value):
        raise ValueError(f"{name}: wanted a number {wanted}, got {value!r}")


class Boundaries(Wrapped):
    """The nearest of the boundaries between a label and other classes; the target is (B, 1 + K) int64.

    ``gradient`` gives the difference of logits, class less label, whose boundary is nearest where it is linearised;
    by the model as it is; ``value`` the largest such difference over all classes of the model, which is above 0 for
    another class.
    """

    def __init__(self, inner: Source, table: Backend, *, norm: str) -> None:
        super().__init__(inner)
        self.dual = DUALS[norm]
        self.margin = cw_margin()

    @property
    def reduced(self) -> bool:
        return False  # `gradient` judges again where the other source's losses are not the model's

    def value(self, x: Tensor, target: Any, objective: Objective, moment: Moment) -> Tensor:
        return self.inner.value(x, _classes_of(target, x)[:, 0], self.margin, moment)

    def gradient(self, x: Tensor, target: Any, objective: Objective, moment: Moment) -> tuple[Tensor, Tensor]:
        labels, *others = _classes_of(target, x).unbind(1)
        pairs = [torch.stack([labels, other], 1) for other in others]
        loss, slope = self.inner.gradient(x, pairs[0], logit_difference, moment)
        chosen = pairs[0]
        if len(pairs) > 1:
            slope, nearest = slope.clone(), self._distance(loss, slope)
        for pair in pairs[1:]:
            here, grad = self.inner.gradient(x, pair, logit_difference, moment)
            distance = self._distance(here, grad)
            closer = distance < nearest
            nearest, loss = torch.where(closer, distance, nearest), torch.where(closer, here, loss)
            chosen = torch.where(closer[:, None], pair, chosen)
            torch.where(closer.reshape(-1, *[1] * (x.dim() - 1)), grad, slope, out=slope)
        if self.inner.reduced or self.inner.redraws:
            loss = self.inner.value(x, chosen, logit_difference, moment)
        return loss, slope

    def _distance(self, loss: Tensor, grad: Tensor) -> Tensor:
        """(B,) float64, to the boundary of a linear model."""
        norms: Tensor = torch.linalg.vector_norm(grad.flatten(1), self.dual, dim=1, dtype=torch.float64)
        return loss.double().abs() / (norms + 1e-12)


def _classes_of(target: Any, x: Tensor) -> Tensor:
    """The target of FAB with classes=True, checked."""
    if not isinstance(target, Tensor) or target.is_floating_point() or target.dim() != 2 or target.shape[1] < 2:
        got = f"{tuple(target.shape)} {target.dtype}" if isinstance(target, Tensor) else type(target).__name__
        raise ValueError(f"target: wanted the label and other classes, (B, 1 + K) int64, for FAB, got {got}")
    return target


class BoundaryWalk(SmallestWalk):
    """Algorithm 1 of arXiv 1907.02044. The points it looks at are for gradients; those that count it judges itself."""

    judges = True
    last_look = False

    def __init__(
        self, job: Job, *, alpha_max: float, eta: float, beta: float, radius: float | None, enough: float | None
    ) -> None:
        super().__init__(job)
        job.enough = enough
        self.alpha_max, self.eta, self.beta = alpha_max, eta, beta
        self.radius = math.inf if radius is None else radius
        self.restart = 0

    def start(self, restart: int) -> None:
        self.restart = restart
        self.adv.copy_(self.job.origin)
        if restart == 0:
            self._judge(self.adv, 0)
            return
        job = self.job
        found = torch.where(job.best_success, self.distance(job.best), math.inf)
        reach = found.clamp(max=self.radius) / 2
        seed = job.schedule.restart_seed(restart)
        l1.random_start(job.table, self.adv, job.origin, job.norm, reach, job.bounds, seed, job.ids, mask=job.mask)
        if job.mask is not None and job.norm != "l1":
            job.project(self.adv, reach)

    def _judge(self, x: Tensor, taken: int) -> Tensor:
        """Keep x where it is better than what was found; (B,) bool: it is a success."""
        job = self.job
        loss = job.value(x, taken, self.restart)
        job.watch(taken, loss, None)
        success, value = self.score(x, loss)
        assert success is not None, "this walk tells"
        job.take(x, loss, (success, value), taken, self.restart)
        return success

    def learn(self, step: int, loss: Tensor, grad: Tensor | None) -> None:
        assert grad is not None, "a walk that needs gradients gets them"
        job = self.job
        if job.source.reduced or job.source.redraws:  # the boundary is where the judge has it: only the slope is rough
            loss = job.value(self.adv, step, self.restart)
        here, origin = self.adv.flatten(1).double(), job.origin.flatten(1).double()
        normal = (self.free(grad).flatten(1).double() * job.sign).nan_to_num(0.0)  # `watch` tells of what is not finite
        gap = -self.margin(loss).nan_to_num(0.0)
        gaps = torch.cat([gap, gap + (normal * (here - origin)).sum(1)])
        points = torch.cat([here, origin])  # one call for both: small images are many small calls
        way = way_onto(points, normal.repeat(2, 1), gaps, job.norm, job.bounds)
        long, longer = self.size(way, ORDERS[job.norm]).clamp(min=1e-8).chunk(2)
        share = (long / (long + longer)).clamp(max=self.alpha_max)[:, None]
        near, far = torch.add(points, way, alpha=self.eta).chunk(2)
        mixed = torch.lerp(near, far, share)
        self.adv.copy_(mixed.reshape(self.adv.shape)).clamp_(*job.bounds)
        if job.mask is not None:  # the mix of two equal numbers may be rounded
            torch.where(job.mask, self.adv, job.origin, out=self.adv)
        success = self._judge(self.adv, step + 1)
        back = self.wide(torch.where(success, self.beta, 1.0))
        self.adv.copy_(torch.where(back < 1, job.origin + back * (self.adv - job.origin), self.adv))
