"""Attacks that are made to transfer: momentum, look-ahead, input diversity, smoothed gradients."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ..engine import Job, Models, Walk
from ..views import Diversity, smoothing_kernel
from .base import Attack, Options, Unpack


class Momentum(Walk):
    """The gradients, each divided by its l1 norm, add up in a momentum whose direction is the step.

    ``lookahead``: the gradient is taken where the momentum alone would lead, inside the threat (NI-FGSM).
    """

    def __init__(self, job: Job, *, decay: float, lookahead: bool = False) -> None:
        super().__init__(job)
        if job.threat.zero_mean or job.norm == "l1":
            raise ValueError("norm: wanted 'linf' or 'l2' without zero_mean for a step with momentum")
        self.decay, self.lookahead = decay, lookahead
        self.momentum = torch.zeros_like(job.origin)
        self.ahead = torch.empty_like(job.origin) if lookahead else None

    def start(self, restart: int) -> None:
        super().start(restart)
        self.momentum.zero_()

    def point(self, step: int) -> Tensor:
        if self.ahead is None or step == self.job.schedule.steps:
            return super().point(step)
        length = self.job.step
        if isinstance(length, Tensor):
            length = length.to(self.adv.dtype).reshape(-1, *[1] * (self.adv.dim() - 1))
        torch.mul(self.momentum, self.decay * length, out=self.ahead).add_(self.adv)
        self.job.project(self.ahead)
        self.job.keep_noise(self.ahead)
        return self.job.on_grid(self.ahead)

    def learn(self, step: int, loss: Tensor, grad: Tensor | None) -> None:
        assert grad is not None, "a walk that needs gradients gets them"
        job = self.job
        job.table.momentum_step(
            self.adv, self.momentum, grad, job.origin, job.mask, job.norm, job.eps, job.step, self.decay, job.bounds
        )
        job.changed(self.adv)


def _decay(decay: float) -> float:
    if isinstance(decay, bool) or not isinstance(decay, (int, float)) or not 0 <= decay < float("inf"):
        raise ValueError(f"decay: wanted a number >= 0, got {decay!r}")
    return float(decay)


class MIFGSM(Attack):
    """MI-FGSM (Dong et al., arXiv 1710.06081, eq. 6-7): iterative FGSM along the accumulated gradient.

    momentum <- decay * momentum + grad / mean|grad|;  x <- P(x + step * direction(momentum)), from x itself. The paper
    divides by the sum |grad|, which changes no direction.

    Args:
        model: called as model(x), or several.
        eps: radius on the scale of x; a float or (B,). decay: 1 is the paper's.
        options: see `Options`; "linf" and "l2". step=None means eps / steps, as in the paper.
            keep="last" by default: where an attack shall transfer, the best iterate on the source is no better.

    Raises:
        ValueError, TypeError: an option that cannot be; the message names it.
    """

    lookahead = False

    def __init__(self, model: Models, *, eps: float | Tensor, decay: float = 1.0, **options: Unpack[Options]) -> None:
        rule = partial(Momentum, decay=_decay(decay), lookahead=self.lookahead)
        _refuse_l1(options)
        self.compose(
            model, options, rule=rule, eps=eps, step=_paper_step(eps, options), random_start=False, keep="last",
        )  # fmt: skip


class NIFGSM(MIFGSM):
    """NI-FGSM (Lin et al., arXiv 1908.06281, eq. 6): MI-FGSM with the gradient taken one step of momentum ahead.

    The look-ahead point is projected into the threat first, so that every point at which the model is asked is allowed.
    Args and errors: as for MIFGSM.
    """

    lookahead = True


class DIM(MIFGSM):
    """DI2-FGSM (Xie et al., arXiv 1803.06978): gradients through random resizing and padding, with momentum.

    Args:
        smallest, probability: see `fastattack.views.Diversity`. decay: 0 is the paper's DI2-FGSM, 1 its M-DI2-FGSM.
        Others and errors: as for MIFGSM.
    """

    def __init__(
        self, model: Models, *, eps: float | Tensor, decay: float = 1.0, smallest: float = 0.9,
        probability: float = 0.5, **options: Unpack[Options],
    ) -> None:  # fmt: skip
        if "view" in options:
            raise TypeError("DIM: view has no place here; use fa.MIFGSM with view=...")
        options["view"] = Diversity(smallest=smallest, probability=probability)
        super().__init__(model, eps=eps, decay=decay, **options)


class TIM(MIFGSM):
    """TI-FGSM (Dong et al., arXiv 1904.02884): gradients smoothed by a kernel, as if averaged over shifted images.

    Args:
        kernel: odd size of the Gaussian kernel in pixels, or a kernel (k, k) of your own. decay: 0 is the paper's
            TI-FGSM, 1 its TI-MI-FGSM. view: `fastattack.views.Diversity()` makes it TI-DIM.
        Others and errors: as for MIFGSM.
    """

    def __init__(
        self, model: Models, *, eps: float | Tensor, decay: float = 1.0, kernel: int | Tensor = 15,
        **options: Unpack[Options],
    ) -> None:  # fmt: skip
        if "smooth" in options:
            raise TypeError("TIM: smooth has no place here; use kernel")
        smooth = kernel if isinstance(kernel, Tensor) else smoothing_kernel(kernel)
        if smooth.dim() != 2:
            raise ValueError(f"kernel: wanted an odd size or a kernel (k, k), got shape {tuple(smooth.shape)}")
        options["smooth"] = smooth
        super().__init__(model, eps=eps, decay=decay, **options)


def _refuse_l1(options: Options) -> None:
    if options.get("norm") == "l1":
        raise ValueError("norm: wanted 'linf' or 'l2' for a step with momentum, got 'l1'")


def _paper_step(eps: float | Tensor, options: Options) -> float | Tensor | None:
    """eps / steps; None where the schedule will complain about the steps."""
    steps = options.get("steps", 10)
    return eps / steps if isinstance(steps, int) and steps > 0 else None


__all__ = ["DIM", "MIFGSM", "NIFGSM", "TIM", "Momentum"]
