"""APGD: projected gradient steps with momentum, whose length follows from how the loss rises."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ..engine import Job, Models, Rule, Walk
from .base import Attack, Options, Unpack
from .stepsize import Halving, checkpoints

MOMENTUM = 0.75


class APGD(Attack):
    """Auto-PGD (Croce & Hein, arXiv 2003.01690, algorithm 1; "l1": arXiv 2103.01208, algorithm 1): no step to tune.

    "linf" and "l2": steps of 2 eps at first. At checkpoints that grow denser, a sample's step is halved where its loss
    rose too seldom or stands still, and the walk goes on from the sample's best point, with momentum 0.75. "l1": steps
    of eps along the signs of the largest gradients; at regular checkpoints the share of pixels that a step moves
    becomes 2/3 of the share that the best perturbation uses, and the step is reset where that share has shrunk,
    divided by 1.5 elsewhere. All of it for each sample alone, without waiting for the device.

    What differs from the papers: momentum sets in with a sample's first halving, not with the second step (denoisers
    rise steadily at first, where momentum only slows them; ``late_momentum=False`` is the paper's); after a halving the
    gradient of the best point is remembered, not made again, and the momentum starts at rest; ``steps`` counts every
    gradient, that of the start included; a random start lies anywhere in the ball; the share of "l1" is rounded down to
    whole pixels, and there is no stage with larger radii.

    Args:
        model: called as model(x); nn.Module or any callable; several in a list or dict make one attack on all.
        eps: radius on the scale of x; a float or (B,).
        norm: "linf", "l2" or "l1".
        steps: gradients for each restart; the authors take 100.
        step: length of the first steps; None means 2 eps ("l1": eps).
        preserve_noise: keep mean and norm of the noise, as `fa.DenoisingPGD` does; needs the clean images as target.
        sigma: standard deviation of the noise, for the typicality in the result, or None.
        late_momentum: momentum from a sample's first halving on; False: from the second step on. Not for "l1", which
            has none.
        options: see `fastattack.attacks.base.Options`; ``sparsity`` is the share at the start of "l1", 0.2.

    Raises:
        ValueError, TypeError: an option that cannot be; the message names it.
    """

    def __init__(
        self,
        model: Models,
        *,
        eps: float | Tensor,
        preserve_noise: bool = False,
        sigma: float | Tensor | None = None,
        late_momentum: bool = True,
        **options: Unpack[Options],
    ) -> None:
        if not isinstance(late_momentum, bool):
            raise TypeError(f"late_momentum: wanted True or False, got {late_momentum!r}")
        if "zero_mean" in options:
            raise TypeError("APGD: zero_mean has no place here; use fa.ObsAtk")
        if getattr(options.get("objective"), "at", None) is not None:
            raise ValueError("objective: wanted one whose losses compare between steps, got one that changes with them")
        sparse = options.get("norm") == "l1"
        rule: Rule = SparseWalk if sparse else partial(MomentumWalk, late=late_momentum)
        sparsity = 0.2 if sparse else None
        self.compose(
            model, options, rule=rule, eps=eps, preserve_noise=preserve_noise, sigma=sigma, steps=20, sparsity=sparsity
        )


class _Halving(Halving):
    per_sample = True  # the loop cuts its rows with those of the walk


class _FromTheBest(Walk):
    """A walk that remembers the best point of its restart, with its gradient, and can go back to it.

    Attributes:
        first: length of the first step in units of eps.
        length: (B,) float64, length of the first step; negative where the objective is minimised.
        top: (B,) float64, the best of this restart; ``peak``, ``slope``: the point and its gradient.
    """

    first = 1.0

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        given = job.schedule.step is not None
        length = job.step if given else job.eps * (self.first * job.sign)
        self.length = torch.as_tensor(length, dtype=torch.float64, device=job.origin.device).expand(job.batch).clone()
        self.top = torch.full_like(self.length, float("-inf"))
        self.peak, self.slope = torch.empty_like(self.adv), torch.zeros_like(self.adv)

    def start(self, restart: int) -> None:
        super().start(restart)
        self.top = torch.full_like(self.length, float("-inf"))

    def remember(self, value: Tensor, grad: Tensor) -> None:
        """Keep the point and its gradient where it is the best of this restart."""
        better = value > self.top
        self.top = torch.where(better, value, self.top)
        rows = self.wide(better)
        torch.where(rows, self.adv, self.peak, out=self.peak)
        torch.where(rows, grad, self.slope, out=self.slope)

    def go_back(self, back: Tensor, grad: Tensor) -> Tensor:
        """The best point again where ``back`` (B,), and its gradient there."""
        rows = self.wide(back)
        torch.where(rows, self.peak, self.adv, out=self.adv)
        return torch.where(rows, self.slope, grad)

    def wide(self, flags: Tensor) -> Tensor:
        """(B,) as (B, 1, ...)."""
        return flags.reshape(-1, *[1] * (self.adv.dim() - 1))


class MomentumWalk(_FromTheBest):
    """Algorithm 1 of arXiv 2003.01690."""

    first = 2.0

    def __init__(self, job: Job, *, late: bool = True) -> None:
        super().__init__(job)
        self.late = late
        self.previous = torch.zeros_like(self.adv)
        self.checks = checkpoints(job.schedule.steps)
        self.halving: _Halving | None = None

    def learn(self, step: int, loss: Tensor, grad: Tensor | None) -> None:
        assert grad is not None, "a walk that needs gradients gets them"
        value = loss.double() * self.job.sign
        self.remember(value, grad)
        if step == 0:
            self.halving = _Halving(self.job.schedule.steps, self.length, value)
        assert self.halving is not None, "made at step 0"
        back = self.halving.tell(step, value) if step > 0 else None
        if back is not None and step in self.checks:
            grad = self.go_back(back, grad)
            torch.where(self.wide(back), self.adv, self.previous, out=self.previous)  # at rest
        self._step(grad, self.halving.step, self._momentum(step, self.halving.step))

    def _momentum(self, step: int, length: Tensor) -> Tensor:
        """(B,) float64, the share of the step; the rest is the last move."""
        if not self.late:
            return torch.full_like(self.length, MOMENTUM if step else 1.0)
        # It damps oscillation: until a checkpoint has seen some, it would only slow the climb.
        return torch.where(length == self.length, torch.ones_like(self.length), MOMENTUM)

    def _step(self, grad: Tensor, length: Tensor, momentum: Tensor) -> None:
        job = self.job
        job.table.apgd_step(
            self.adv, self.previous, grad, job.origin, job.mask, job.norm, job.eps, length, momentum, job.bounds
        )
        torch.autograd.graph.increment_version(self.previous)
        job.changed(self.adv)


class SparseWalk(_FromTheBest):
    """APGD for "l1": arXiv 2103.01208, algorithm 1, one radius."""

    every, shrunk, spread, slower, slowest = 0.04, 0.95, 1.5, 1.5, 0.1

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        free = job.origin[0].numel() if job.mask is None else job.mask.flatten(1).sum(1).clamp(min=1)
        self.free = torch.as_tensor(free, dtype=torch.float64, device=job.origin.device).expand(job.batch).clone()
        self.check = max(int(self.every * job.schedule.steps), 1)
        self.begin(job)

    def begin(self, job: Job) -> None:
        share = torch.as_tensor(job.share, dtype=torch.float64, device=job.origin.device)
        self.share = share.expand(job.batch).clone()
        self.used = self.free
        self.size = self.length.clone()

    def start(self, restart: int) -> None:
        super().start(restart)
        self.begin(self.job)

    def learn(self, step: int, loss: Tensor, grad: Tensor | None) -> None:
        assert grad is not None, "a walk that needs gradients gets them"
        job = self.job
        self.remember(loss.double() * job.sign, grad)
        if step > 0 and step % self.check == 0:
            grad = self._adapt(grad)
        job.table.l1_step(self.adv, grad, job.origin, job.mask, job.eps, self.size, self.share, job.bounds)
        job.changed(self.adv)

    def _adapt(self, grad: Tensor) -> Tensor:
        """The share that a step moves follows the share that the best perturbation uses."""
        used = (self.peak != self.job.origin).flatten(1).sum(1).double()
        sparser = used < self.shrunk * self.used
        wanted = (used / self.spread).floor().clamp(min=1)
        self.share = (wanted - 0.5) / self.free  # the step takes so many, rounded up
        slower = torch.minimum(self.size.abs() / self.slower, self.length.abs())
        slower = torch.maximum(slower, self.slowest * self.length.abs()) * self.length.sign()
        self.size = torch.where(sparser, self.length, slower)
        self.used = used
        return self.go_back(sparser, grad)
