"""ART's gradient attacks: FGM, PGD, BIM and MIM."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from art.estimators.estimator import BaseEstimator, LossGradientsMixin
from scipy.stats import truncnorm

from ...engine import Moment, Steepest
from ...objectives import Objective
from .base import EngineAttack, check_ball, check_flag, check_whole, norm_of, random_start
from .inputs import Inputs, finished, part, per_sample
from .minimal import smallest
from .victim import Array, Victim
from .walks import rule_of
from .writer import Show, watching


class _Gradient(EngineAttack):
    """What FGM and PGD share."""

    _estimator_requirements = (BaseEstimator, LossGradientsMixin)

    norm: Any
    eps: Any
    eps_step: Any
    num_random_init: int
    batch_size: int

    def _check_params(self) -> None:
        norm_of(self.norm)
        check_ball(self.eps, self.eps_step)
        check_flag(self.targeted, "targeted")
        check_whole(self.num_random_init, "num_random_init", 0)
        check_whole(self.batch_size, "batch_size", 1)

    def _show(self, victim: Victim, inputs: Inputs, batch: int) -> Show | None:
        """Tells ART's summary writer of each gradient: that of the reduced loss, downwards where targeted."""
        writer = self.summary_writer
        if writer is None:
            return None
        mean = getattr(victim.estimator.loss, "reduction", "mean") == "mean"
        factor = (-1.0 if self.targeted else 1.0) / (len(inputs.x) if mean else 1)

        def show(moment: Moment, x: Any, grad: Any) -> None:
            rows = slice(None) if moment.ids is None else moment.ids.cpu().numpy()
            writer.update(
                batch_id=batch, global_step=moment.step, grad=grad.cpu().numpy() * factor, patch=None,
                estimator=self.estimator, x=x.detach().cpu().numpy(), y=inputs.shown[rows], targeted=self.targeted,
            )  # fmt: skip

        return show

    def _fooled(self, adv: Array, labels: Array, clean: Array) -> Array:
        """(N,) bool: classified as wanted, or otherwise than the input is (ART asks the model, not the labels)."""
        found = self._predicted(adv)
        fooled: Array = (found == labels) if self.targeted else (found != clean)
        return fooled

    def _improved(self, loss: Array, best: Array | None) -> Array:
        """(N,) bool: a restorer's loss is better than that of the starts before; everywhere for the first."""
        if best is None:
            return np.ones(len(loss), dtype=bool)
        improved: Array = (loss < best) if self.targeted else (loss > best)
        return improved


class ProjectedGradientDescent(_Gradient):
    """ART's ProjectedGradientDescent (Madry et al., arXiv 1706.06083).

    Args:
        estimator: a PyTorchClassifier, or a `PyTorchRestorer` with clean images as y.
        norm: np.inf, "inf", 2 or 1. eps, eps_step: numbers, or arrays with one number for each sample, (N, 1, 1, 1).
        decay: of MI-FGSM's momentum, or None. random_eps: eps from a truncated normal at each call.
        num_random_init: random starts from NumPy's global generator; the last that succeeds is kept (a restorer: the
            one with the best loss). 0: from the input.
        Others: as in ART.

    Raises:
        TypeError, ValueError: an argument that cannot be, of ART's type; the message names it.
    """

    attack_params: ClassVar[list[str]] = [
        "norm", "eps", "eps_step", "decay", "targeted", "num_random_init", "batch_size", "max_iter", "random_eps",
        "summary_writer", "verbose",
    ]  # fmt: skip

    def __init__(
        self, estimator: Any, norm: int | float | str = np.inf, eps: int | float | Array = 0.3,
        eps_step: int | float | Array = 0.1, decay: float | None = None, max_iter: int = 100, targeted: bool = False,
        num_random_init: int = 0, batch_size: int = 32, random_eps: bool = False, summary_writer: Any = False,
        verbose: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(estimator, summary_writer=summary_writer)
        self.norm, self.eps, self.eps_step, self.decay = norm, eps, eps_step, decay
        self.max_iter, self.targeted, self.num_random_init = max_iter, targeted, num_random_init
        self.batch_size, self.random_eps, self.verbose = batch_size, random_eps, verbose
        self._check_params()

    def _check_params(self) -> None:
        super()._check_params()
        check_whole(self.max_iter, "max_iter", 0)
        check_flag(self.verbose, "verbose")
        check_flag(self.random_eps, "random_eps")
        if self.decay is not None and not 0 <= self.decay < np.inf:
            raise ValueError(f"decay: wanted None or a finite number >= 0, got {self.decay!r}")
        if self.decay is not None and norm_of(self.norm) == "l1":
            raise ValueError(f"norm: wanted np.inf, 'inf' or 2 with decay, got {self.norm!r}")
        if self.random_eps and not np.all(self.eps):
            raise ValueError(f"eps: wanted numbers > 0 with random_eps=True, got {self.eps!r}")
        if self.summary_writer is not None and self.num_random_init > 1:
            raise ValueError(f"num_random_init: wanted 0 or 1 with a summary_writer, got {self.num_random_init}")

    def generate(self, x: Array, y: Array | None = None, **kwargs: Any) -> Array:
        """The adversarial inputs, like x.

        Args:
            x: (N, ...) inside the clip values.
            y: labels (N,), one-hot rows (N, classes), or clean images; None: what the model says.
            mask: keyword, broadcastable to x; 0 keeps the pixel, and a random start is multiplied by it.

        Raises:
            TypeError, ValueError, IndexError: the arrays do not fit. NonFiniteError: the model or its loss gave NaN.
        """
        victim, inputs = self._inputs(x, y, kwargs, targeted=self.targeted, own=self.num_random_init > 0)
        objective = victim.objective(soft=inputs.soft)
        eps, step = self._radii(inputs.x.shape)
        adv = inputs.x.copy()
        if self.max_iter > 0:
            for rows in self._spans(len(adv), "PGD - Batches"):
                batch = rows.start // self.batch_size
                adv[rows] = self._batch(victim, inputs.rows(rows), objective, part(eps, rows), part(step, rows), batch)
        if self.summary_writer is not None:
            self.summary_writer.reset()
        return finished(adv, inputs.x, x, victim.bounds)

    def _radii(self, shape: tuple[int, ...]) -> tuple[float | Array, float | Array]:
        """eps and eps_step of this call."""
        eps, step = self.eps, self.eps_step
        if self.random_eps:  # ART's draw: a normal of deviation eps / 2, cut to [0, eps]
            size = eps.shape if isinstance(eps, np.ndarray) else 1
            drawn = np.round(truncnorm(0, 2, loc=0, scale=eps / 2).rvs(size=size), 10)
            step = step / eps * drawn
            eps = drawn
        return per_sample(eps, "eps", shape), per_sample(step, "eps_step", shape)

    def _batch(
        self, victim: Victim, inputs: Inputs, objective: Objective, eps: float | Array, step: float | Array, batch: int
    ) -> Array:
        """One batch from all its starts."""
        norm, restarts = norm_of(self.norm), max(1, self.num_random_init)
        show = self._show(victim, inputs, batch)
        rule = rule_of(norm, bounded=victim.bounds is not None, decay=self.decay)
        clean = self._predicted(inputs.x) if restarts > 1 and victim.classes is not None else None
        best, best_loss = inputs.x, None
        for restart in range(restarts):
            start = random_start(inputs, eps, norm, victim.bounds) if self.num_random_init > 0 else None
            found = self._climb(
                victim, inputs, objective, norm=norm, eps=eps, step=step, steps=int(self.max_iter), rule=rule,
                targeted=self.targeted, start=start, with_loss=restarts > 1 and clean is None,
                wrap=watching(show),
            )  # fmt: skip
            adv = found.adversarial.cpu().numpy()
            if clean is not None:
                better = self._fooled(adv, inputs.shown.argmax(1), clean) | (restart == 0)
            else:
                loss = found.loss.cpu().numpy()
                better = self._improved(loss, best_loss)
                best_loss = loss if best_loss is None else np.where(better, loss, best_loss)
            best = _rows_where(better, adv, best)
        return best


class BasicIterativeMethod(ProjectedGradientDescent):
    """ART's BasicIterativeMethod (Kurakin et al., arXiv 1607.02533): PGD in the linf ball from the input itself."""

    def __init__(
        self, estimator: Any, eps: int | float | Array = 0.3, eps_step: int | float | Array = 0.1,
        max_iter: int = 100, targeted: bool = False, batch_size: int = 32, verbose: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(
            estimator, eps=eps, eps_step=eps_step, max_iter=max_iter, targeted=targeted, batch_size=batch_size,
            verbose=verbose,
        )  # fmt: skip


class MomentumIterativeMethod(ProjectedGradientDescent):
    """ART's MomentumIterativeMethod (Dong et al., arXiv 1710.06081): PGD along the accumulated gradient."""

    def __init__(
        self, estimator: Any, norm: int | float | str = np.inf, eps: int | float | Array = 0.3,
        eps_step: int | float | Array = 0.1, decay: float = 1.0, max_iter: int = 100, targeted: bool = False,
        batch_size: int = 32, verbose: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(
            estimator, norm=norm, eps=eps, eps_step=eps_step, decay=decay, max_iter=max_iter, targeted=targeted,
            batch_size=batch_size, verbose=verbose,
        )  # fmt: skip


class FastGradientMethod(_Gradient):
    """ART's FastGradientMethod (Goodfellow et al., arXiv 1412.6572): one step of length eps.

    Args:
        minimal: the shortest of eps_step, 2 eps_step, ... <= eps that succeeds, along one gradient; where none does,
            the longest.
        num_random_init: with more than one, the start whose examples succeed most often is kept for all samples, as in
            ART (a restorer: each sample's best loss).
        Others, and errors: as for `ProjectedGradientDescent`.
    """

    attack_params: ClassVar[list[str]] = [
        "norm", "eps", "eps_step", "targeted", "num_random_init", "batch_size", "minimal", "summary_writer",
    ]  # fmt: skip

    def __init__(
        self, estimator: Any, norm: int | float | str = np.inf, eps: int | float | Array = 0.3,
        eps_step: int | float | Array = 0.1, targeted: bool = False, num_random_init: int = 0, batch_size: int = 32,
        minimal: bool = False, summary_writer: Any = False,
    ) -> None:  # fmt: skip
        super().__init__(estimator, summary_writer=summary_writer)
        self.norm, self.eps, self.eps_step, self.targeted = norm, eps, eps_step, targeted
        self.num_random_init, self.batch_size, self.minimal = num_random_init, batch_size, minimal
        self._check_params()

    def _check_params(self) -> None:
        super()._check_params()
        check_flag(self.minimal, "minimal")

    def generate(self, x: Array, y: Array | None = None, **kwargs: Any) -> Array:
        """The adversarial inputs, like x; arguments and errors as for `ProjectedGradientDescent.generate`."""
        own = self.num_random_init > 0 and not self.minimal
        victim, inputs = self._inputs(x, y, kwargs, targeted=self.targeted, own=own)
        if self.minimal and victim.classes is None:
            raise ValueError("minimal: wanted False for a restorer (its examples do not succeed or fail), got True")
        objective = victim.objective(soft=inputs.soft)
        eps, step = (per_sample(getattr(self, name), name, inputs.x.shape) for name in ("eps", "eps_step"))
        adv = inputs.x.copy()
        if self.minimal:
            for rows in self._spans(len(adv), "FGM"):
                batch, few = rows.start // self.batch_size, inputs.rows(rows)
                show = self._show(victim, few, batch)
                adv[rows] = smallest(self, victim, few, objective, part(eps, rows), part(step, rows), show)
        else:
            adv = self._best_start(victim, inputs, objective, eps)
        if self.summary_writer is not None:
            self.summary_writer.reset()
        return finished(adv, inputs.x, x, victim.bounds)

    def _best_start(self, victim: Victim, inputs: Inputs, objective: Objective, eps: float | Array) -> Array:
        restarts, many = max(1, self.num_random_init), self.num_random_init > 1
        clean = self._predicted(inputs.x) if many and victim.classes is not None else None
        best, best_rate, best_loss = inputs.x, -1.0, None
        for _ in range(restarts):
            adv, loss = self._one_start(victim, inputs, objective, eps, with_loss=many and clean is None)
            if clean is not None:
                rate = float(self._fooled(adv, inputs.shown.argmax(1), clean).mean())
                best, best_rate = (adv, rate) if rate > best_rate else (best, best_rate)
                continue
            better = self._improved(loss, best_loss)
            best_loss = loss if best_loss is None else np.where(better, loss, best_loss)
            best = _rows_where(better, adv, best)
        return best

    def _one_start(
        self, victim: Victim, inputs: Inputs, objective: Objective, eps: float | Array, *, with_loss: bool
    ) -> tuple[Array, Array]:
        """(adversarial, loss) of one step. The start is drawn for all samples at once, as ART does."""
        norm = norm_of(self.norm)
        start = random_start(inputs, eps, norm, victim.bounds) if self.num_random_init > 0 else None
        adv, loss = inputs.x.copy(), np.zeros(len(inputs.x))
        rule = rule_of(norm, bounded=victim.bounds is not None, decay=None)
        for rows in self._spans(len(adv), "FGM"):
            few = inputs.rows(rows)
            show = self._show(victim, few, rows.start // self.batch_size)
            found = self._climb(
                victim, few, objective, norm=norm, eps=part(eps, rows), step=part(eps, rows), steps=1,
                targeted=self.targeted, rule=rule if start is not None else Steepest, with_loss=with_loss,
                start=None if start is None else start[rows],
                wrap=watching(show),
            )  # fmt: skip
            adv[rows], loss[rows] = found.adversarial.cpu().numpy(), found.loss.cpu().numpy()
        return adv, loss


def _rows_where(rows: Array, one: Array, other: Array) -> Array:
    """``one`` in these rows, (N,) bool, else ``other``."""
    return np.where(rows.reshape(-1, *[1] * (one.ndim - 1)), one, other)
