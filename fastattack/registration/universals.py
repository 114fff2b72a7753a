"""One perturbation for all pairs of a data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..attacks import Universal
from ..attacks.universal import shifted
from ..engine import Models, Progress
from ..objectives import Objective
from ..threat import Threat
from .attacking import build, check_built, default_objective, goal_of, size_of, victim_of
from .harm import check_truth
from .sides import channels_of, check_pair
from .truth import Truth


@dataclass(frozen=True)
class UniversalRegistration:
    """A universal perturbation of pairs.

    Attributes:
        perturbation: (1, 2, *spatial), 0 on the side that is not attacked.
        side: "moving", "fixed" or "both".
        threat: its ball. bounds: of the attacked images, or None.
        loss: the mean objective over the pairs that it was found on. steps: gradients taken. seconds, complete: as of
            `UniversalResult`.
    """

    perturbation: Tensor = field(repr=False)
    side: str
    threat: Threat
    bounds: tuple[float, float] | None
    loss: float
    steps: int
    seconds: float
    complete: bool = True

    def apply(self, pair: Tensor) -> Tensor:
        """The pairs (B, 2, *spatial) with the perturbation, the attacked images inside ball and bounds.

        Raises:
            TypeError, ValueError: no pair of its size.
        """
        check_pair(pair)
        if pair.shape[1:] != self.perturbation.shape[1:]:
            wanted = tuple(self.perturbation.shape[1:])
            raise ValueError(f"pair: wanted (B, {', '.join(map(str, wanted))}), got {tuple(pair.shape)}")
        channels = channels_of(self.side)
        moved = pair.detach().clone()
        attacked = pair[:, channels].contiguous()
        moved[:, channels] = shifted(attacked, self.perturbation[:, channels], self.threat, self.bounds)
        return moved


def universal(
    model: Models,
    pair: Tensor,
    truth: Truth,
    *,
    side: str = "both",
    objective: Objective | None = None,
    progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> UniversalRegistration:
    """The one perturbation that hurts the model most over all pairs, by `fastattack.Universal`.

    What it does to other pairs tells `harm_of(model, other, found.apply(other), truth_of_other)`.

    Args:
        model, pair, truth, side, objective: as for `attack_registration`; there must be a truth, since the walk begins
            at the pairs themselves.
        options: of `fastattack.Universal`: eps, norm, steps, batch, per_step, ... ``bounds`` is (0, 1) where it is not
            given.

    Raises:
        TypeError, ValueError: an argument, the model or the objective do not fit; the message names it.
        NonFiniteError: NaN or infinity on the way.
    """
    check_pair(pair)
    known = check_truth(truth, pair)
    named, victim = victim_of(model, pair, side)
    built = build(Universal, victim, objective or default_objective(known), options)
    assert isinstance(built, Universal), "made by its class"
    check_built(built, side, truth=known, clean=None, given=objective, start=None)
    goal, _ = goal_of(named, pair, known, {"eval_mode": built.schedule.eval_mode, "max_batch": size_of(built)})
    channels = channels_of(side)
    found = built.fit(pair[:, channels].contiguous(), goal, progress=progress)
    whole = torch.zeros_like(pair[:1])
    whole[:, channels] = found.perturbation
    return UniversalRegistration(
        whole, side, built.threat, built.pixels, found.loss, found.steps, found.seconds, found.complete
    )
