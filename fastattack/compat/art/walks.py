"""ART's order of a step in the l2 ball: clip values first, then the ball (elsewhere: the ball first)."""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor

from ...attacks.transfer import Momentum
from ...engine import Rule, Steepest


class ClipFirst(Steepest):
    """A step, cut to the bounds, and then shrunk into the ball: nearer to its surface than the other way round."""

    def learn(self, step: int, loss: Tensor, grad: Tensor | None) -> None:
        assert grad is not None, "a walk that needs gradients gets them"
        job = self.job
        job.table.pgd_step(self.adv, grad, job.origin, job.mask, job.norm, math.inf, job.step, job.bounds)
        job.project(self.adv)
        job.changed(self.adv)


class MomentumClipFirst(Momentum):
    """The same along the accumulated gradient."""

    def learn(self, step: int, loss: Tensor, grad: Tensor | None) -> None:
        assert grad is not None, "a walk that needs gradients gets them"
        job = self.job
        job.table.momentum_step(
            self.adv, self.momentum, grad, job.origin, job.mask, job.norm, math.inf, job.step, self.decay, job.bounds
        )
        job.project(self.adv)
        job.changed(self.adv)


def rule_of(norm: str, *, bounded: bool, decay: float | None) -> Rule:
    """The walk whose steps are ART's."""
    clips = norm == "l2" and bounded
    if decay is None:
        return ClipFirst if clips else Steepest
    return partial(MomentumClipFirst if clips else Momentum, decay=float(decay))
