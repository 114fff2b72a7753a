"""Whether an attack did its work: the loss that it reached beside the plain loop's, the ball and the bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .cases import Case
from .trial import Call, Wrong

EXACT = 1e-3
"""Share of the climb (the plain loop's loss less that of the start) by which two forms of one attack in float32 may
differ: rounding turns the signs of gradients that are almost zero, and steps go by signs. Of the climb, because an
untrained classifier's loss rises by 0.2 % alone, and half an attack would reach nearly the same loss."""

REDUCED = {"tf32": 1e-2, "bf16": 5e-2, "fp16": 2e-2}
"""The same for gradients in reduced precision: the more of them lie below the rounding error, the more signs turn, and
an attack loses strength by it. They have 10, 7 and 10 bits of mantissa, and fp16 loses small numbers beside."""


ORDERS = {"linf": float("inf"), "l2": 2}


@dataclass(frozen=True)
class Run:
    """An attack that can be called again and again; gives the adversarial images.

    Args:
        attack: does it.
        tolerance: share of the plain loop's climb by which it may be off.
    """

    attack: Callable[[], Tensor]
    tolerance: float = EXACT

    def __call__(self) -> Tensor:
        return self.attack()


class Judge:
    """Runs an attack once and compares it with the plain loop, which is itself judged by the start and the ball.

    The plain loop runs when the first way is judged.

    Args:
        reference: the plain loop.
        floor: only a loss below the reference's is wrong, by more than this share of the climb: for attacks that draw
            or choose their steps in their own way. None: it must be the reference's loss to within a `Run`'s tolerance.
    """

    def __init__(self, case: Case, reference: Callable[[], Tensor], *, floor: float | None = None) -> None:
        self.case, self.reference, self.floor = case, reference, floor

    def __call__(self, call: Call) -> float:
        """The gap to the reference's loss, as a share of its climb from the start; 0 for a higher loss, where only a
        lower one is wrong.

        Raises:
            Wrong: says in figures what is not right.
        """
        want = self.wanted
        got = self.reached(self._seeded(call), "reached")
        gap = (got - want) / (want - self.start)
        off = abs(gap) if self.floor is None else max(0.0, -gap)
        tolerance = getattr(call, "tolerance", EXACT) if self.floor is None else self.floor
        if not off <= tolerance:
            raise Wrong(
                f"reached a loss of {got:.6g}, the plain loop {want:.6g} from {self.start:.6g}: {off:.2g} of the "
                f"climb, wanted {tolerance:g} at most"
            )
        return off

    @cached_property
    def wanted(self) -> float:
        return self.reached(self._seeded(self.reference), "the plain loop reached")

    def reached(self, adv: Any, who: str) -> float:
        """The loss at ``adv``, which must be images like the input, in the ball and the bounds, and above the start."""
        case = self.case
        if not isinstance(adv, Tensor) or adv.shape != case.x.shape or adv.dtype != case.x.dtype:
            what = f"{adv.dtype} {tuple(adv.shape)}" if isinstance(adv, Tensor) else type(adv).__name__
            raise Wrong(f"wanted {case.x.dtype} {tuple(case.x.shape)}, got {what}")
        adv = adv.detach()
        far = torch.linalg.vector_norm((adv - case.x).flatten(1), ORDERS[case.norm], dim=1).max().item()
        if not far <= case.eps * (1 + 1e-4):  # a plain loop rounds to nearest: origin + eps can lie beyond
            raise Wrong(f"{who} {far:.6g} from the input, eps is {case.eps:.6g}")
        low, high = (adv.min().item(), adv.max().item())
        if case.bounds is not None and not (case.bounds[0] <= low and high <= case.bounds[1]):
            raise Wrong(
                f"{who} values from {low:.6g} to {high:.6g}, bounds are {case.bounds[0]:g} to {case.bounds[1]:g}"
            )
        loss, start = case.loss(adv), self.start
        if not loss > start:
            raise Wrong(f"{who} a loss of {loss:.6g}, not above {start:.6g} at the start")
        return loss

    @cached_property
    def start(self) -> float:
        return self.case.loss(self.case.x)

    def _seeded(self, call: Call) -> Any:
        """The same draws each time, for attacks that take them from torch's own state."""
        x = self.case.x
        with torch.random.fork_rng([x.device] if x.is_cuda else []):
            torch.manual_seed(0)
            return call()
