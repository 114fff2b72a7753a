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
        got = self.reached(seeded(self.case, call), "reached")
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
        return self.reached(seeded(self.case, self.reference), "the plain loop reached")

    def reached(self, adv: Any, who: str) -> float:
        """The loss at ``adv``, which must be images like the input, in the ball and the bounds, and above the start."""
        adv = inside(self.case, adv, who)
        loss, start = self.case.loss(adv), self.start
        if not loss > start:
            raise Wrong(f"{who} a loss of {loss:.6g}, not above {start:.6g} at the start")
        return loss

    @cached_property
    def start(self) -> float:
        return self.case.loss(self.case.x)


class Fooled:
    """For attacks that look for a success and give the input back where there is none, or for the smallest one.

    Runs an attack once: it must fool as many samples as the original does but for FEWER of all, within the ball; for
    the smallest, perturbations of what both fool must be no larger than the original's on average, but for LARGER.

    Args:
        case: its labels are what the model says.
        reference: the original.
        smallest: there is no ball, and sizes count; in the case's norm.
    """

    def __init__(self, case: Case, reference: Callable[[], Tensor], *, smallest: bool = False) -> None:
        self.case, self.reference, self.smallest = case, reference, smallest

    def __call__(self, call: Call) -> float:
        """The share of samples that it fools less, or how much larger its perturbations are; 0 where neither.

        Raises:
            Wrong: says in figures what is not right.
        """
        want, got = self.wanted, self.found(seeded(self.case, call), "is")
        count = len(got[0])
        fewer = (int(want[0].sum()) - int(got[0].sum())) / count
        if fewer > FEWER:
            raise Wrong(f"fooled {int(got[0].sum())} of {count} samples, the original {int(want[0].sum())}")
        both = want[0] & got[0] & (want[1] > 0)
        larger = float(got[1][both].mean() / want[1][both].mean()) - 1 if self.smallest and bool(both.any()) else 0.0
        if larger > LARGER:
            raise Wrong(f"perturbations {larger:.1%} larger than the original's, wanted {LARGER:.0%} at most")
        return max(fewer, larger, 0.0)

    @cached_property
    def wanted(self) -> tuple[Tensor, Tensor]:
        return self.found(seeded(self.case, self.reference), "the original is")

    def found(self, adv: Any, who: str) -> tuple[Tensor, Tensor]:
        """(which samples are fooled, how far each is from the input)."""
        case = self.case
        adv = inside(case, adv, who, ball=not self.smallest)
        with torch.no_grad():
            return case.model(adv).argmax(1) != case.target, sizes(case, adv)


FEWER, LARGER = 0.1, 0.1


def inside(case: Case, found: Any, who: str, *, ball: bool = True) -> Tensor:
    """Images like the case's, in its bounds and in the ball."""
    if not isinstance(found, Tensor) or found.shape != case.x.shape or found.dtype != case.x.dtype:
        what = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise Wrong(f"wanted {case.x.dtype} {tuple(case.x.shape)}, got {what}")
    adv = found.detach()
    far = sizes(case, adv).max().item()
    radius = case.eps * (1 + 1e-4) if ball else float("inf")  # a plain loop rounds to nearest: eps can lie beyond
    if not far <= radius:
        raise Wrong(f"{who} {far:.6g} from the input, eps is {case.eps:.6g}")
    low, high = (adv.min().item(), adv.max().item())
    if case.bounds is not None and not (case.bounds[0] <= low and high <= case.bounds[1]):
        raise Wrong(f"{who} values from {low:.6g} to {high:.6g}, bounds are {case.bounds[0]:g} to {case.bounds[1]:g}")
    return adv


def sizes(case: Case, adv: Tensor) -> Tensor:
    """(B,), how far each sample is from the input in the case's norm."""
    found: Tensor = torch.linalg.vector_norm((adv - case.x).flatten(1), ORDERS[case.norm], dim=1)
    return found


def seeded(case: Case, call: Callable[[], Any]) -> Any:
    """The same draws each time, for attacks that take them from torch's own state."""
    with torch.random.fork_rng([case.x.device] if case.x.is_cuda else []):
        torch.manual_seed(0)
        return call()
