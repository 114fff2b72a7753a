"""Momentum attacks whose gradient is that of more than one point."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from ..engine import Job, Models
from ..ops import check
from .base import Options, Unpack
from .transfer import MIFGSM, NIFGSM, Momentum

_APART = 0xD1B54A32D192ED03
"""An odd number: seeds of different steps and neighbours differ."""


class VarianceTuned(Momentum):
    """The momentum gathers the gradient and how far the last step's neighbourhood was from its gradient."""

    def __init__(self, job: Job, *, neighbours: int, spread: float, decay: float, lookahead: bool) -> None:
        super().__init__(job, decay=decay, lookahead=lookahead)
        self.neighbours, self.spread = neighbours, spread
        self.variance = torch.zeros_like(job.origin)
        self.near = torch.empty_like(job.origin)
        self.restart = 0

    def start(self, restart: int) -> None:
        super().start(restart)
        self.restart = restart
        self.variance.zero_()

    def learn(self, step: int, loss: Tensor, grad: Tensor | None) -> None:
        assert grad is not None, "a walk that needs gradients gets them"
        tuned = grad + self.variance
        around = self._around(step)
        super().learn(step, loss, tuned)
        self.variance = around.sub_(grad)

    def _around(self, step: int) -> Tensor:
        """The mean gradient of random points near the iterate; linf, also outside the bounds."""
        job, total = self.job, torch.zeros_like(self.adv)
        for number in range(self.neighbours):
            seed = (job.schedule.restart_seed(self.restart) + (step * self.neighbours + number + 1) * _APART) % 2**64
            job.table.random_start(self.near, self.adv, "linf", job.eps * self.spread, check.UNBOUNDED, seed, job.ids)
            loss, grad = job.gradient(self.near, step, self.restart)
            job.watch(step, loss, grad)
            job.table.accumulate(total, grad, 1.0, 1.0 / self.neighbours)
        return total


class Scaled(Momentum):
    """The momentum gathers the mean gradient of copies of the image, each half as bright as the one before."""

    def __init__(self, job: Job, *, copies: int, decay: float) -> None:
        super().__init__(job, decay=decay, lookahead=True)
        self.copies = copies
        self.restart = 0

    def start(self, restart: int) -> None:
        super().start(restart)
        self.restart = restart

    def learn(self, step: int, loss: Tensor, grad: Tensor | None) -> None:
        assert grad is not None, "a walk that needs gradients gets them"
        job, seen = self.job, self.point(step)
        total = grad / self.copies
        for number in range(1, self.copies):
            scale = 2.0**-number
            faint, fainter = job.gradient(seen * scale, step, self.restart)
            job.watch(step, faint, fainter)
            job.table.accumulate(total, fainter, 1.0, scale / self.copies)
        super().learn(step, loss, total)


class VMIFGSM(MIFGSM):
    """VMI-FGSM (Wang & He, arXiv 2103.15571, algorithm 1): MI-FGSM with the gradient's variance around the iterate.

    Each step adds to its gradient the mean gradient of random points around the last iterate, less the gradient there.

    Args:
        model: called as model(x), or several.
        eps: radius on the scale of x; a float or (B,).
        neighbours: gradients more in each step; the paper takes 20.
        spread: the neighbours lie within spread * eps of the iterate, also outside the bounds; 1.5 is the paper's.
        decay, options: as for `MIFGSM`; "linf" alone. ``steps_used`` of a result does not count the neighbours.

    Raises:
        ValueError, TypeError: an option that cannot be; the message names it.
    """

    def __init__(
        self, model: Models, *, eps: float | Tensor, decay: float = 1.0, neighbours: int = 20, spread: float = 1.5,
        **options: Unpack[Options],
    ) -> None:  # fmt: skip
        _only_linf(type(self).__name__, options)
        _count("neighbours", neighbours)
        if isinstance(spread, bool) or not isinstance(spread, (int, float)) or not 0 < spread < math.inf:
            raise ValueError(f"spread: wanted a finite number > 0, got {spread!r}")
        super().__init__(model, eps=eps, decay=decay, **options)
        self.rule = partial(
            VarianceTuned, neighbours=neighbours, spread=float(spread), decay=float(decay), lookahead=self.lookahead
        )


class VNIFGSM(VMIFGSM):
    """VNI-FGSM (arXiv 2103.15571): VMI-FGSM with the gradient taken one step of momentum ahead, as NI-FGSM does.

    Args and errors: as for VMIFGSM.
    """

    lookahead = True


class SINIFGSM(NIFGSM):
    """SI-NI-FGSM (Lin et al., arXiv 1908.06281, eq. 7): NI-FGSM with the mean gradient of x, x / 2, x / 4, ...

    Args:
        copies: of the image, each half as bright as the one before; 5 is the paper's.
        Others and errors: as for `MIFGSM`. ``steps_used`` of a result counts a step once.
    """

    def __init__(
        self, model: Models, *, eps: float | Tensor, decay: float = 1.0, copies: int = 5, **options: Unpack[Options]
    ) -> None:
        _count("copies", copies)
        super().__init__(model, eps=eps, decay=decay, **options)
        self.rule = partial(Scaled, copies=copies, decay=float(decay))


def _count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: wanted a whole number >= 1, got {value!r}")


def _only_linf(name: str, options: Options) -> None:
    if options.get("norm", "linf") != "linf":
        raise ValueError(f"norm: wanted 'linf' for {name} (its neighbours fill a box), got {options['norm']!r}")
