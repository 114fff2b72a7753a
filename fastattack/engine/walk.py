"""How an iterate moves: a walk says where to look next and learns what was found there."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..guard import rows_of
from .job import Job


class Walk:
    """One walk through one micro-batch, and the plain projected-gradient step: subclasses change what differs.

    The loop calls ``start`` once for each restart, then ``point`` and ``learn`` for each step, ``point(steps)`` at
    the end, and ``score`` for each point. Every tensor attribute with B rows is state of the samples: with ``stop`` the
    loop cuts them down to those that go on, and puts them back at the end of the restart. So what a later restart needs
    is there from the constructor on, not from the first step; and what a sample hands on to it should stand still where
    ``job.finished()``, since the sample may stay in the batch a while longer for its neighbours' sake.

    Attributes:
        needs_gradient: ``learn`` gets a gradient; False for black-box attacks.
        last_look: ``point(steps)`` is asked for; False where a step more would be a query more.
        free_start: the walk may begin at a point that the caller gives.
        tells_success: ``score`` tells successes from failures. Then, and with stop="success", every loss that it and
            ``learn`` get is that of the model as it is, at the price of a forward pass where gradients are made in
            reduced precision.
        judges: the walk hands what counts to ``job.take`` itself, judged by ``job.value``; the points that the loop
            looks at are for gradients alone, and ``learn`` gets the loss that comes with the gradient.
        adv: (B, ...), the iterate; always inside the threat.
        taken: steps of this restart that have been learnt from.
    """

    needs_gradient = True
    last_look = True
    free_start = True
    tells_success = False
    judges = False
    taken = 0

    def __init__(self, job: Job) -> None:
        self.job = job
        self.adv = job.origin.clone(memory_format=torch.preserve_format)

    def start(self, restart: int) -> None:
        """Go to the start of a restart."""
        self.job.start(self.adv, restart)

    def point(self, step: int) -> Tensor:
        """Where to look next, inside the threat; ``step`` == steps asks for the last look of a restart."""
        return self.job.on_grid(self.adv)

    def learn(self, step: int, loss: Tensor, grad: Tensor | None) -> None:
        """What was found at ``point(step)``: the raw loss (B,), and its gradient."""
        raise NotImplementedError

    def score(self, x: Tensor, loss: Tensor) -> tuple[Tensor | None, Tensor]:
        """How good x is: (success (B,) bool or None, value (B,) float64), larger is better, success first."""
        return None, loss.double() * self.job.sign

    def rows(self, index: Tensor, job: Job) -> Walk:
        """The same walk of fewer samples."""
        found: Walk = pick(self, index, self.job.batch)
        found.job = job
        return found

    def adopt(self, part: Walk, index: Tensor) -> None:
        """Take over the state that ``rows(index)`` has reached."""
        put(self, part, index, self.job.batch)


Rule = Callable[[Job], Walk]
"""Makes the walk of a micro-batch: a Walk subclass, or functools.partial of one with its options."""


class Steepest(Walk):
    """x <- P(x + step * direction(gradient)): FGSM, PGD, denoising-PGD, ObsAtk."""

    def learn(self, step: int, loss: Tensor, grad: Tensor | None) -> None:
        assert grad is not None, "a walk that needs gradients gets them"
        self.job.move(self.adv, grad)


def pick(value: Any, index: Tensor, batch: int) -> Any:
    """``value`` with only the rows ``index`` of every per-sample tensor in it: tensors, tuples, lists, objects' fields.

    Objects are looked into where they say so with an attribute ``per_sample``, and walks always.
    """
    if isinstance(value, Tensor):
        return rows_of(value, index, batch)
    if isinstance(value, (list, tuple)):
        return type(value)(pick(v, index, batch) for v in value)
    if _holds_rows(value):
        found = copy.copy(value)
        for name, part in vars(value).items():
            if not isinstance(part, Job):
                object.__setattr__(found, name, pick(part, index, batch))
        return found
    return value


def put(value: Any, part: Any, index: Tensor, batch: int) -> Any:
    """``value`` with the rows ``index`` from ``part``, what `pick` gave and a walk has changed since.

    Tensors come back new, since one may be somebody else's too; the objects of `pick` change in place.
    """
    if isinstance(value, Tensor) and isinstance(part, Tensor):
        rows = value.dim() > 0 and value.shape[0] == batch and part.shape == (index.numel(), *value.shape[1:])
        return value.index_copy(0, index, part) if rows else part
    if isinstance(value, (list, tuple)):
        return type(value)(put(v, p, index, batch) for v, p in zip(value, part, strict=True))
    if _holds_rows(value):
        for name, own in vars(value).items():
            if not isinstance(own, Job):
                object.__setattr__(value, name, put(own, getattr(part, name), index, batch))
        return value
    return part


def _holds_rows(value: Any) -> bool:
    return isinstance(value, Walk) or getattr(value, "per_sample", False) is True
