"""What every attack is: a model, an objective, a threat and a schedule, handed to the engine."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NoReturn, TypedDict

import torch
from torch import Tensor
from typing_extensions import Self, Unpack

from .. import engine
from ..engine import Models, Progress, Rule, Schedule, Source, Steepest, View
from ..engine.schedule import check_step
from ..fast import Speed
from ..inputs import unknown_option
from ..objectives import Objective, mse
from ..ops import NoiseStats, check, noise_stats
from ..ops.backend import Backend
from ..threat import Threat
from .given import check_kernel, check_models

Weights = str | Sequence[float] | Mapping[str, float]
"""How several models become one: a name of `fastattack.engine.Ensemble`, or a weight for each."""


@dataclass(frozen=True)
class AttackResult:
    """What an attack found.

    Attributes:
        adversarial: (B, ...), inside the threat for every sample.
        loss: (B,) objective at ``adversarial``, in float32 or wider; with ``grid`` that of the rounded images.
        best_step: (B,) number of steps after which it was found (0: the start; -1: an interrupt came first).
        best_restart: (B,).
        steps_used: (B,) gradients or queries that the sample took, over all restarts.
        noise_before, noise_after: statistics of input - clean and of adversarial - clean; None without a clean image.
        seconds: wall-clock time of the loop.
        complete: False where an interrupt ended it (``on_interrupt="return"``).
        success: (B,) bool, the loss is past ``threshold``; None where there is none.
        how: in words, in which precision and by which means the gradients were made.
    """

    adversarial: Tensor
    loss: Tensor
    best_step: Tensor
    best_restart: Tensor
    steps_used: Tensor
    noise_before: NoiseStats | None
    noise_after: NoiseStats | None
    seconds: float
    complete: bool = True
    success: Tensor | None = None
    how: str = ""


class Options(TypedDict, total=False):
    """Options that every attack takes, beside its own. Their meaning: `fastattack.engine.Schedule` (how it walks),
    `fastattack.threat.Threat` (where it may go) and `fastattack.fast.Speed` (how gradients are made).

    ``targeted``: go down the objective, towards the target. ``ensemble``: how several models become one, see
    `fastattack.engine.Ensemble`: "mean", "max", "min", "softmax", "logits", or a weight for each model (a sequence, a
    tensor or array; a mapping by name where the models come by name).

    ``view``: a random transformation through which the models see the input, averaged over ``eot`` draws
    (`fastattack.views`). ``smooth``: a kernel (k, k) for the gradients (`fastattack.views.smoothing_kernel`).
    """

    objective: Objective
    targeted: bool
    ensemble: Weights
    view: View | None
    smooth: Tensor | None
    norm: str
    bounds: tuple[float, float] | None
    grid: int | None
    sparsity: float | Tensor | None
    steps: int
    step: float | Tensor | None
    random_start: bool
    restarts: int
    keep: str
    stop: str | None
    tolerance: float
    patience: int
    threshold: float | None
    eot: int
    seed: int
    max_batch: int | None
    eval_mode: bool
    on_interrupt: str
    backend: str
    precision: str
    channels_last: bool | None
    fold: bool
    compile: bool
    graph: str
    chunk: int | None


_THREAT = {f.name for f in fields(Threat)}
_SCHEDULE = {f.name for f in fields(Schedule)} - {"minimise"}
_SPEED = {f.name for f in fields(Speed)}
_OWN = {"objective", "targeted", "ensemble", "view", "smooth"}
_CALL = {"mask", "sample_ids", "start", "clean", "progress"}
_NAMES = _OWN | _THREAT | _SCHEDULE | _SPEED


class Attack:
    """A model with an objective, a threat and a schedule. Calling it attacks a batch; it holds no other state.

    Attributes:
        wrap: makes another source of the one that the models make, see `fastattack.engine.attack`.
    """

    wrap: Callable[[Source, Backend], Source] | None = None

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """Python tells of an option that is missing where another one is misspelt."""
        if not options.keys() <= _NAMES:  # looked into only then: an attack may be made for each batch
            known, required = _names(cls)
            unknown = options.keys() - known
            if unknown and required - options.keys():
                raise unknown_option(cls.__name__, unknown, known)
        return super().__new__(cls)

    def __init__(
        self,
        model: Models,
        *,
        objective: Objective,
        threat: Threat,
        schedule: Schedule,
        rule: Rule = Steepest,
        ensemble: Weights = "mean",
        view: View | None = None,
        smooth: Tensor | None = None,
        sigma: float | Tensor | None = None,
        speed: Speed | None = None,
    ) -> None:
        ensemble = check_models(model, ensemble)
        if not callable(objective):
            raise TypeError(f"objective: wanted a function of (output, target), got {type(objective).__name__}")
        if isinstance(objective, type):
            name = objective.__name__
            raise TypeError(f"objective: wanted a function of (output, target), got the class {name}; write {name}()")
        if sigma is not None:
            check.positive(sigma, "sigma", sigma if isinstance(sigma, Tensor) else torch.zeros(1))
        if getattr(objective, "at", None) is not None and schedule.keep != "last":
            self._needs_a_measure(f"keep: wanted 'last', got {schedule.keep!r}")
        if getattr(objective, "at", None) is not None and schedule.restarts > 1:
            self._needs_a_measure(f"restarts: wanted 1, got {schedule.restarts}")
        if view is not None and not callable(view):
            raise TypeError(f"view: wanted a function of (x, generator), got {type(view).__name__}")
        if smooth is not None:
            check_kernel(smooth)
        self.model = model
        self.objective = objective
        self.threat = threat
        self.schedule = schedule
        self.rule = rule
        self.ensemble = ensemble
        self.view = view
        self.smooth = smooth
        self.sigma = sigma
        self.speed = Speed() if speed is None else speed

    def compose(
        self,
        model: Models,
        options: Options,
        *,
        rule: Rule = Steepest,
        sigma: float | Tensor | None = None,
        needs_starts: bool = True,
        ball: bool = True,
        **fixed: Any,
    ) -> None:
        """What the constructors call: user's ``options`` over an attack's ``fixed`` choices, sorted into their places.

        Args:
            needs_starts: more restarts than one make sense with random starts alone.
            ball: the attack needs a radius; False: it looks for the smallest perturbation, and eps is None.
        """
        chosen: dict[str, Any] = {"objective": mse, "targeted": False, "ensemble": "mean", **fixed, **options}
        unknown = set(chosen) - _NAMES
        if unknown:
            raise unknown_option(type(self).__name__, unknown, _names(type(self))[0])
        if ball and chosen.get("eps") is None:
            raise TypeError(f"eps: wanted a radius (a number or a tensor (B,)) for {type(self).__name__}, got None")
        if not isinstance(chosen["targeted"], bool):
            raise TypeError(f"targeted: wanted True or False, got {chosen['targeted']!r}")
        if options.get("step") is not None:
            check_step(options["step"], positive=True)
        threat = Threat(**{k: v for k, v in chosen.items() if k in _THREAT})
        schedule = Schedule(
            minimise=chosen["targeted"], **{k: v for k, v in chosen.items() if k in _SCHEDULE}
        )  # fmt: skip
        speed = Speed(**{k: v for k, v in chosen.items() if k in _SPEED})
        if needs_starts and schedule.restarts > 1 and not schedule.random_start:
            raise ValueError("restarts: wanted 1 where random_start=False (every restart would be the same)")
        Attack.__init__(
            self, model, objective=chosen["objective"], threat=threat, schedule=schedule, rule=rule,
            ensemble=chosen["ensemble"], view=chosen.get("view"), smooth=chosen.get("smooth"), sigma=sigma,
            speed=speed,
        )  # fmt: skip

    def _needs_a_measure(self, told: str) -> NoReturn:
        name = type(self).__name__
        raise ValueError(f"{told} (the objective of this {name} changes with the steps and is no measure of the best)")

    def __call__(self, x: Tensor, target: Any, **options: Any) -> Tensor:
        """The adversarial inputs alone; arguments as for `run`."""
        if not options.keys() <= _CALL:
            raise unknown_option(f"{type(self).__name__}(...)(x, target)", options.keys() - _CALL, _CALL)
        return self._outcome(x, target, with_loss=False, **options).adversarial

    def run(
        self,
        x: Tensor,
        target: Any,
        *,
        mask: Tensor | None = None,
        sample_ids: Tensor | None = None,
        start: Tensor | None = None,
        clean: Tensor | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> AttackResult:
        """Attack the batch x.

        Args:
            x: (B, ...) float, the input: noisy images for a denoiser (nominal range [0, 1]), images for a classifier.
            target: what the objective compares the output with: clean images like x, or labels (B,).
            mask: broadcastable to x, 0 keeps the pixel as it is.
            sample_ids: (B,) integers that name the samples, so that a batch split changes no random start.
            start: like x, where the attack begins instead of at x or at a random point; it is projected onto the
                threat first. With restarts, the others begin at random points.
            clean: the clean images like x, for preserve_noise and the noise statistics, where the target is not they.
            progress: called after each gradient with a `Progress`.

        Raises:
            TypeError, ValueError: an argument, the model or the objective do not fit; the message names it.
            NonFiniteError: the model or the objective gave NaN or infinity; step and sample are named.
            MemoryError: ``max_batch`` samples, or one, do not fit in memory.
        """
        found = self._outcome(
            x, target, with_loss=True, mask=mask, sample_ids=sample_ids, start=start, clean=clean, progress=progress
        )
        before = after = None
        known = target if clean is None else clean
        if isinstance(known, Tensor) and known.is_floating_point() and known.shape == x.shape:
            backend = self.schedule.backend
            known = known.to(x.dtype)
            before = noise_stats(x.detach() - known, sigma=self.sigma, backend=backend)
            after = noise_stats(found.adversarial - known, sigma=self.sigma, backend=backend)
        return AttackResult(
            found.adversarial, found.loss, found.best_step, found.best_restart, found.steps_used, before, after,
            found.seconds, found.complete, self._successes(found.loss), found.how,
        )  # fmt: skip

    def _successes(self, loss: Tensor) -> Tensor | None:
        threshold = self.schedule.threshold
        if threshold is None:
            return None
        return loss < threshold if self.schedule.minimise else loss > threshold

    def _outcome(
        self,
        x: Tensor,
        target: Any,
        *,
        with_loss: bool,
        mask: Tensor | None = None,
        sample_ids: Tensor | None = None,
        start: Tensor | None = None,
        clean: Tensor | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> engine.Outcome:
        return engine.attack(
            self.model, x, target, objective=self.objective, threat=self.threat, schedule=self.schedule,
            rule=self.rule, ensemble=self.ensemble, view=self.view, smooth=self.smooth, wrap=self.wrap,
            mask=mask, sample_ids=sample_ids, start=start, clean=clean, progress=progress, speed=self.speed,
            with_loss=with_loss,
        )  # fmt: skip

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(objective={_name(self.objective)}, threat={self.threat}, schedule={self.schedule})"
        )


def _names(kind: type[Attack]) -> tuple[frozenset[str], frozenset[str]]:
    """(the options that an attack takes, those that it must have)."""
    own = [p for p in inspect.signature(kind.__init__).parameters.values() if p.kind is not p.VAR_KEYWORD]
    required = {p.name for p in own if p.kind is p.KEYWORD_ONLY and p.default is p.empty}
    return frozenset({p.name for p in own} - {"self"} | _NAMES), frozenset(required)


def _name(objective: Objective) -> str:
    return getattr(objective, "__name__", repr(objective))


__all__ = ["Attack", "AttackResult", "Options", "Unpack", "check_models"]
