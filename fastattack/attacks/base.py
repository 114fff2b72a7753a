"""What every attack is: a model, an objective, a threat and a schedule, handed to the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import engine
from ..engine import Model, Progress, Schedule
from ..objectives import Objective
from ..ops import NoiseStats, check, noise_stats
from ..threat import Threat


@dataclass(frozen=True)
class AttackResult:
    """What an attack found.

    Attributes:
        adversarial: (B, ...), inside the threat for every sample.
        loss: (B,) objective at ``adversarial``.
        best_step: (B,) number of steps after which it was found (0: the start).
        best_restart: (B,).
        noise_before, noise_after: statistics of input - clean and of adversarial - clean; None without a clean image.
        seconds: wall-clock time of the loop.
    """

    adversarial: Tensor
    loss: Tensor
    best_step: Tensor
    best_restart: Tensor
    noise_before: NoiseStats | None
    noise_after: NoiseStats | None
    seconds: float


class Attack:
    """A model with an objective, a threat and a schedule. Calling it attacks a batch; it holds no other state."""

    def __init__(
        self,
        model: Model,
        *,
        objective: Objective,
        threat: Threat,
        schedule: Schedule,
        sigma: float | Tensor | None = None,
    ) -> None:
        if not callable(model):
            raise TypeError(f"model: wanted something callable as model(x), got {type(model).__name__}")
        if not callable(objective):
            raise TypeError(f"objective: wanted a function of (output, target), got {type(objective).__name__}")
        if isinstance(objective, type):
            name = objective.__name__
            raise TypeError(f"objective: wanted a function of (output, target), got the class {name}; write {name}()")
        if sigma is not None:
            check.positive(sigma, "sigma", sigma if isinstance(sigma, Tensor) else torch.zeros(1))
        self.model = model
        self.objective = objective
        self.threat = threat
        self.schedule = schedule
        self.sigma = sigma

    def __call__(self, x: Tensor, target: Any, **options: Any) -> Tensor:
        """The adversarial inputs alone; arguments as for `run`."""
        return self._outcome(x, target, **options).adversarial

    def run(
        self,
        x: Tensor,
        target: Any,
        *,
        mask: Tensor | None = None,
        sample_ids: Tensor | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> AttackResult:
        """Attack the batch x.

        Args:
            x: (B, ...) float, the input: noisy images for a denoiser (nominal range [0, 1]), images for a classifier.
            target: what the objective compares the output with: clean images like x, or labels (B,).
            mask: broadcastable to x, 0 keeps the pixel as it is.
            sample_ids: (B,) integers that name the samples, so that a batch split changes no random start.
            progress: called after each gradient with a `Progress`.

        Raises:
            TypeError, ValueError: an argument, the model or the objective do not fit; the message names it.
            NonFiniteError: the model or the objective gave NaN or infinity; step and sample are named.
        """
        found = self._outcome(x, target, mask=mask, sample_ids=sample_ids, progress=progress)
        before = after = None
        if isinstance(target, Tensor) and target.is_floating_point() and target.shape == x.shape:
            backend = self.schedule.backend
            clean = target.to(x.dtype)
            before = noise_stats(x.detach() - clean, sigma=self.sigma, backend=backend)
            after = noise_stats(found.adversarial - clean, sigma=self.sigma, backend=backend)
        return AttackResult(
            found.adversarial, found.loss, found.best_step, found.best_restart, before, after, found.seconds
        )

    def _outcome(
        self,
        x: Tensor,
        target: Any,
        *,
        mask: Tensor | None = None,
        sample_ids: Tensor | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> engine.Outcome:
        return engine.attack(
            self.model, x, target, objective=self.objective, threat=self.threat, schedule=self.schedule,
            mask=mask, sample_ids=sample_ids, progress=progress,
        )  # fmt: skip

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(objective={_name(self.objective)}, threat={self.threat}, schedule={self.schedule})"
        )


def _name(objective: Objective) -> str:
    return getattr(objective, "__name__", repr(objective))
