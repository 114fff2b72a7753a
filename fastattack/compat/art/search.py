"""ART's AutoProjectedGradientDescent and SquareAttack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
from art.estimators.classification.classifier import ClassifierMixin
from art.estimators.estimator import BaseEstimator, LossGradientsMixin, NeuralNetworkMixin
from art.utils import is_probability
from tqdm.auto import trange

from ... import objectives
from ...attacks import APGD, Square
from ...objectives import Objective
from .base import EngineAttack, check_flag, check_whole, norm_of, random_start
from .inputs import Inputs, finished
from .victim import Array, Victim, predict

LOSSES: dict[str, Objective] = {
    "cross_entropy": objectives.cross_entropy,
    "difference_logits_ratio": objectives.dlr,
}


def _check_positive(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < np.inf:
        raise ValueError(f"{name}: wanted a finite number > 0, got {value!r}")


class AutoProjectedGradientDescent(EngineAttack):
    """ART's AutoProjectedGradientDescent (Croce & Hein, arXiv 2003.01690), on `fastattack.APGD`.

    Args:
        estimator: a PyTorchClassifier that gives logits.
        norm: np.inf, "inf", 2 or 1. eps, eps_step: radius and first step.
        nb_random_init: random starts from NumPy's global generator, for the samples that none before has fooled.
        loss_type: None (the estimator's), "cross_entropy" or "difference_logits_ratio".
        Others: as in ART.

    Raises:
        TypeError, ValueError: an argument that cannot be, of ART's type; the message names it.
    """

    attack_params: ClassVar[list[str]] = [
        "norm", "eps", "eps_step", "max_iter", "targeted", "nb_random_init", "batch_size", "loss_type", "verbose",
    ]  # fmt: skip
    _estimator_requirements = (BaseEstimator, LossGradientsMixin, ClassifierMixin)

    def __init__(
        self, estimator: Any, norm: int | float | str = np.inf, eps: float = 0.3, eps_step: float = 0.1,
        max_iter: int = 100, targeted: bool = False, nb_random_init: int = 5, batch_size: int = 32,
        loss_type: str | None = None, verbose: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(estimator)
        self.norm, self.eps, self.eps_step, self.max_iter = norm, eps, eps_step, max_iter
        self.targeted, self.nb_random_init, self.batch_size = targeted, nb_random_init, batch_size
        self.loss_type, self.verbose = loss_type, verbose
        self._check_params()
        ones = np.ones((1, *estimator.input_shape), dtype=np.float32)
        if is_probability(predict(estimator, ones, 1)):
            raise ValueError("estimator: wanted logits for AutoProjectedGradientDescent, got probabilities")

    def _check_params(self) -> None:
        _check_norm(self.norm)
        _check_positive(self.eps, "eps")
        _check_positive(self.eps_step, "eps_step")
        check_flag(self.targeted, "targeted")
        for name in ("max_iter", "nb_random_init", "batch_size"):
            check_whole(getattr(self, name), name, 1, ValueError)
        if self.loss_type is not None and self.loss_type not in LOSSES:
            wanted = ", ".join(map(repr, LOSSES))
            raise ValueError(f"loss_type: wanted None, {wanted}, got {self.loss_type!r}")
        check_flag(self.verbose, "verbose")

    def generate(self, x: Array, y: Array | None = None, **kwargs: Any) -> Array:
        """The adversarial inputs, like x; arguments and errors as for `ProjectedGradientDescent.generate`.

        A sample that no start fools comes back with its largest loss (targeted: its smallest).
        """
        victim, inputs = self._inputs(x, y, kwargs, targeted=self.targeted)
        labels = inputs.shown.argmax(1)
        if self.loss_type is None:
            objective = victim.objective(soft=inputs.soft)
        else:
            objective = LOSSES[self.loss_type]
            inputs = Inputs(inputs.x, labels.astype(np.int64), inputs.shown, inputs.mask)
        norm = norm_of(self.norm)
        attack = APGD(
            victim.model, eps=float(self.eps), step=float(self.eps_step), steps=int(self.max_iter), norm=norm,
            bounds=victim.bounds, objective=objective, targeted=self.targeted, random_start=False,
            **asdict(self._speed),
        )  # fmt: skip
        adv, best = inputs.x.copy(), np.full(len(inputs.x), -np.inf)
        left = self._robust(adv, labels)
        for _ in trange(self.nb_random_init, desc="AutoPGD - restart", disable=not self.verbose):
            if not left.size:
                break
            few = inputs.rows(left)
            start = random_start(few, float(self.eps), norm, victim.bounds)
            held = np.ones(len(left), dtype=bool)
            for rows in self._spans(len(left), "AutoPGD - batch"):
                found, value = _run(attack, victim, few.rows(rows), start=victim.put(start[rows]))
                value = -value if self.targeted else value
                held[rows] = np.isin(np.arange(len(found)), self._robust(found, labels[left[rows]]))
                better = ~held[rows] | (value > best[left[rows]])
                adv[left[rows][better]], best[left[rows][better]] = found[better], value[better]
            left = left[held]
        return finished(adv, inputs.x, x, victim.bounds)

    def _robust(self, x: Array, labels: Array) -> Array:
        """Numbers of the samples that are not fooled."""
        found = self._predicted(x)
        return np.flatnonzero(found != labels if self.targeted else found == labels)


class SquareAttack(EngineAttack):
    """ART's SquareAttack (Andriushchenko et al., arXiv 1912.00049), on `fastattack.Square`; no gradients.

    The seed of all draws is taken from NumPy's global generator, once for each call.

    Args:
        estimator: a PyTorchClassifier, or a `PyTorchRestorer` (its own loss rises, and no success ends a sample).
        norm: np.inf, "inf" or 2. ART's 1 does nothing, and is refused.
        adv_criterion, loss: None; ART's functions of NumPy arrays cannot be told to the engine.
        max_iter: queries after the start, for each restart. p_init: share of the first squares, in (0, 1).
        Others: as in ART.

    Raises:
        TypeError, ValueError: an argument that cannot be, of ART's type; the message names it.
    """

    attack_params: ClassVar[list[str]] = [
        "norm", "adv_criterion", "loss", "max_iter", "eps", "p_init", "nb_restarts", "batch_size", "verbose",
    ]  # fmt: skip
    _estimator_requirements = (BaseEstimator, NeuralNetworkMixin)

    def __init__(
        self, estimator: Any, norm: int | float | str = np.inf, adv_criterion: Callable[..., Any] | None = None,
        loss: Callable[..., Any] | None = None, max_iter: int = 100, eps: float = 0.3, p_init: float = 0.8,
        nb_restarts: int = 1, batch_size: int = 128, verbose: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(estimator)
        self.norm, self.adv_criterion, self.loss, self.max_iter = norm, adv_criterion, loss, max_iter
        self.eps, self.p_init, self.nb_restarts = eps, p_init, nb_restarts
        self.batch_size, self.verbose = batch_size, verbose
        self._check_params()

    def _check_params(self) -> None:
        _check_norm(self.norm)
        if norm_of(self.norm) == "l1":
            raise ValueError(f"norm: wanted np.inf, 'inf' or 2, got {self.norm!r} (which does nothing in ART)")
        for name, instead in (("adv_criterion", ""), ("loss", "; a PyTorchRestorer has a loss of its own")):
            if getattr(self, name) is not None:
                raise ValueError(f"{name}: wanted None, got {getattr(self, name)!r}{instead}")
        _check_positive(self.eps, "eps")
        for name in ("max_iter", "nb_restarts", "batch_size"):
            check_whole(getattr(self, name), name, 1, ValueError)
        if not isinstance(self.p_init, (int, float)) or not 0 < self.p_init < 1:
            raise ValueError(f"p_init: wanted a number between 0 and 1, got {self.p_init!r}")
        check_flag(self.verbose, "verbose")

    def generate(self, x: Array, y: Array | None = None, **kwargs: Any) -> Array:
        """The adversarial inputs, like x; arguments and errors as for `ProjectedGradientDescent.generate`."""
        if not self.estimator.channels_first:
            raise ValueError("estimator: wanted channels_first=True for SquareAttack, got False")
        if isinstance(x, np.ndarray) and x.ndim != 4:
            raise ValueError(f"x: wanted images (N, C, H, W), got shape {x.shape}")
        victim, inputs = self._inputs(x, y, kwargs, targeted=False)
        left = np.arange(len(inputs.x))
        options: dict[str, Any] = {"objective": victim.objective(soft=False)} if victim.classes is None else {}
        if victim.classes is not None:
            labels = inputs.shown.argmax(1).astype(np.int64)
            inputs = Inputs(inputs.x, labels, inputs.shown, inputs.mask)
            options = {"objective": objectives.cw_margin(), "threshold": 0.0, "stop": "success"}
            left = np.flatnonzero(self._predicted(inputs.x) == labels)
        attack = Square(
            victim.model, eps=float(self.eps), queries=int(self.max_iter) + 1, p=float(self.p_init),
            norm=norm_of(self.norm), bounds=victim.bounds, restarts=int(self.nb_restarts),
            seed=int(np.random.randint(2**31)),  # noqa: NPY002 (ART draws from the global generator)
            **options,
        )  # fmt: skip
        adv = inputs.x.copy()
        for rows in self._spans(len(left), "SquareAttack - batches"):
            which = left[rows]
            adv[which], _ = _run(attack, victim, inputs.rows(which), sample_ids=victim.put(which))
        return finished(adv, inputs.x, x, victim.bounds)


def _check_norm(norm: Any) -> None:
    if norm not in (1, 2, np.inf, "inf"):
        raise ValueError(f"norm: wanted np.inf, 'inf', 2 or 1, got {norm!r}")


def _run(attack: APGD | Square, victim: Victim, part: Inputs, **options: Any) -> tuple[Array, Array]:
    """(adversarial, loss) of one batch."""
    mask = None if part.mask is None else victim.put(part.mask)
    found = attack.run(victim.put(part.x), victim.put(part.target), mask=mask, **options)
    return found.adversarial.cpu().numpy(), found.loss.double().cpu().numpy()
