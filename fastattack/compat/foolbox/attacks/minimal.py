"""The smallest perturbation that is adversarial: Carlini & Wagner, and DDN."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from torch import Tensor

from ....attacks import CW, DDN
from ....attacks.base import Attack as EngineAttack
from ....objectives.ranged import Margin, MarginByEntropy
from ..criteria import get_criterion, goal_of
from ..distances import l2
from ..models.network import network_of
from ..native import like
from .base import MinimizationAttack, raise_if_kwargs, trains, verify_input_bounds

LEAST = 100
"""Steps without a success that is smaller, after which a sample may leave its c: with fewer, Adam's swings across the
border end it too soon (measured on digits, 200 steps: with 20 of them perturbations 8 % larger than foolbox's)."""


class _Smallest(MinimizationAttack):
    distance = l2

    def run(self, model: Any, inputs: Any, criterion: Any, *, early_stop: float | None = None, **kwargs: Any) -> Any:
        """The smallest success of each sample, like inputs; where there is none, the point that came nearest to one."""
        raise_if_kwargs(kwargs)
        x = verify_input_bounds(inputs, model).detach()
        classes, targeted = goal_of(get_criterion(criterion), len(x), exact=True)
        network = network_of(model)
        low, high = model.bounds
        options = {
            "bounds": (float(low), float(high)), "targeted": targeted, "eval_mode": not trains(network),
            **asdict(self._speed),
        }  # fmt: skip
        attack = self._attack(network, int(classes.max()), targeted, options)
        found: Tensor = attack(x, classes.to(x.device))
        return like(inputs)(found)

    def _attack(self, network: Any, top: int, targeted: bool, options: dict[str, Any]) -> EngineAttack:
        raise NotImplementedError


class L2CarliniWagnerAttack(_Smallest):
    """Carlini & Wagner (arXiv 1608.04644) on `fastattack.CW`.

    Args:
        binary_search_steps: values of the constant c that each sample tries.
        steps: gradients for each c, of step length ``stepsize`` (Adam, between the bounds by tanh).
        confidence: by how much the logit of another class must lead.
        initial_const: the first c.
        abort_early: a sample that finds nothing better for a tenth of the steps, and for 100 at least, leaves its c;
            foolbox looks at the loss of the whole batch.
    """

    def __init__(
        self, binary_search_steps: int = 9, steps: int = 10000, stepsize: float = 1e-2, confidence: float = 0,
        initial_const: float = 1e-3, abort_early: bool = True,
    ) -> None:  # fmt: skip
        self.binary_search_steps = binary_search_steps
        self.steps = steps
        self.stepsize = stepsize
        self.confidence = confidence
        self.initial_const = initial_const
        self.abort_early = abort_early

    def _attack(self, network: Any, top: int, targeted: bool, options: dict[str, Any]) -> EngineAttack:
        if self.abort_early:
            patience = max(LEAST, math.ceil(self.steps / 10))
            options |= {"stop": "converged", "patience": patience, "tolerance": 1e-4}
        return CW(
            network, objective=Margin(top), threshold=-self.confidence if targeted else self.confidence,
            steps=self.steps, restarts=self.binary_search_steps, step=self.stepsize, initial_c=self.initial_const,
            **options,
        )  # fmt: skip


class DDNAttack(_Smallest):
    """Decoupled direction and norm (Rony et al., arXiv 1811.09600) on `fastattack.DDN`.

    Args:
        init_epsilon: radius of the first sphere. steps: gradients. gamma: relative change of the radius.
    """

    def __init__(self, *, init_epsilon: float = 1.0, steps: int = 100, gamma: float = 0.05) -> None:
        self.init_epsilon = init_epsilon
        self.steps = steps
        self.gamma = gamma

    def _attack(self, network: Any, top: int, targeted: bool, options: dict[str, Any]) -> EngineAttack:
        return DDN(
            network, objective=MarginByEntropy(top), threshold=0.0, steps=self.steps, step=1.0, gamma=self.gamma,
            radius=self.init_epsilon, **options,
        )  # fmt: skip
