"""How the loop is told to run, and what it tells: plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

from torch import Tensor

from ..ops import check
from ..ops.dispatch import known_backend

STOPS = (None, "converged", "success")


class NonFiniteError(ArithmeticError):
    """A loss or gradient was NaN or infinite; the message names step and sample."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How the loop walks.

    Attributes:
        steps: gradients (or queries) for each restart, >= 1.
        step: length of a step on the scale of the images, a float or (B,); None means 2.5 eps / steps (Madry et al.,
            arXiv 1706.06083, choose such steps).
        random_start: start at a random point of the ball instead of its centre.
        restarts: independent starts; the best of all is kept.
        minimise: go down the objective instead of up (targeted attacks).
        keep: "best" returns each sample's best iterate, the last one included, at the price of one more forward pass;
            "last" returns the last.
        stop: None takes all steps. "converged" ends a sample whose best loss has not risen by more than ``tolerance``
            times its size for ``patience`` steps; "success" ends it for good, with the iterate whose loss passes
            ``threshold``. A sample that has ended finds and counts nothing more, whatever its batch does. The samples
            that are left go on in a smaller batch; asking them costs one wait for the device every ``patience`` steps.
        threshold: a sample is fooled where its loss is above it (below, when minimising). None: no such notion.
        eot: gradients averaged at each step, for models that draw random numbers (expectation over transformation,
            Athalye et al., arXiv 1707.07397). The numbers follow from ``seed``.
        seed: of the random starts and of every other draw.
        max_batch: at most this many samples at a time go through the model; None means all, and half of them again
            where the memory does not suffice (with a warning).
        eval_mode: run the model in eval mode (its flags are restored); False attacks it in the mode that it is in.
        on_interrupt: "raise" lets a KeyboardInterrupt through; "return" gives back the best so far (keep="last": the
            iterate that the first restart had reached), judged by the model as it is.
        backend: see fastattack.ops.
    """

    steps: int = 10
    step: float | Tensor | None = None
    random_start: bool = True
    restarts: int = 1
    minimise: bool = False
    keep: str = "best"
    stop: str | None = None
    tolerance: float = 1e-3
    patience: int = 5
    threshold: float | None = None
    eot: int = 1
    seed: int = 0
    max_batch: int | None = None
    eval_mode: bool = True
    on_interrupt: str = "raise"
    backend: str = "auto"

    def __post_init__(self) -> None:
        whole = ("steps", "restarts", "max_batch", "eot", "patience")
        for name, value in ((name, getattr(self, name)) for name in whole):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name}: wanted a whole number >= 1, got {value!r}")
        if self.keep not in ("best", "last"):
            raise ValueError(f"keep: wanted 'best' or 'last', got {self.keep!r}")
        if self.stop not in STOPS:
            raise ValueError(f"stop: wanted None, 'converged' or 'success', got {self.stop!r}")
        if self.stop is not None and self.keep == "last":
            raise ValueError("stop: wanted None with keep='last' (a sample that ends early has no last iterate)")
        if self.stop == "success" and self.threshold is None:
            raise ValueError("threshold: wanted a loss with stop='success', got None")
        for name in ("random_start", "minimise", "eval_mode"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}: wanted True or False, got {getattr(self, name)!r}")
        if self.step is not None:
            check_step(self.step)
        if self.threshold is not None and not math.isfinite(number_of(self.threshold, "threshold")):
            raise ValueError(f"threshold: wanted a finite number, got {self.threshold!r}")
        if not number_of(self.tolerance, "tolerance") >= 0:
            raise ValueError(f"tolerance: wanted a number >= 0, got {self.tolerance!r}")
        if self.on_interrupt not in ("raise", "return"):
            raise ValueError(f"on_interrupt: wanted 'raise' or 'return', got {self.on_interrupt!r}")
        check.seed_of(self.seed)
        known_backend(self.backend)

    def restart_seed(self, restart: int) -> int:
        """The seed of one restart; that of the first is ``seed``."""
        return (self.seed + restart * 0x9E3779B97F4A7C15) % 2**64


def number_of(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: wanted a number, got {type(value).__name__} {value!r}")
    return float(value)


def check_step(step: Any, *, positive: bool = False) -> None:
    """A finite length >= 0, or one for each sample; > 0 where the user gave it. The direction is the objective's."""
    if isinstance(step, Tensor):
        if step.dim() > 1:
            raise ValueError(f"step: wanted a number or a tensor (B,), got shape {tuple(step.shape)}")
        lengths = step.detach().double().flatten().tolist()
    else:
        lengths = [number_of(step, "step")]
    for length in lengths:
        if not (0 < length < math.inf or (length == 0 and not positive)):
            hint = "; targeted=True goes down" if length < 0 else ""
            raise ValueError(f"step: wanted a finite length > 0, got {length}{hint}")


@dataclass(frozen=True)
class Progress:
    """What a progress callback sees after each step; ``loss`` is (B,) on the device, reading it waits for it."""

    step: int
    steps: int
    restart: int
    first_sample: int
    loss: Tensor


@dataclass(frozen=True)
class Outcome:
    """What the loop returns: (B, ...) adversarial; loss, best_step, best_restart and steps_used (B,).

    best_step is -1, and loss NaN, for samples that an interrupt left untouched (``complete`` is False then).
    """

    adversarial: Tensor
    loss: Tensor
    best_step: Tensor
    best_restart: Tensor
    steps_used: Tensor
    seconds: float
    complete: bool = True
    how: str = ""
