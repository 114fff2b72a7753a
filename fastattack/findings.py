"""What a set of attacks on the same samples says about their strength."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

FEW = 0.1
"""The share of the samples from which a finding is a warning."""


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: of the check.
        warns: it is a sign of an attack that is too weak.
        text: what was found, and for a warning what to do.
        share: of the samples that show it, in [0, 1].
    """

    name: str
    warns: bool
    text: str
    share: float


@dataclass(frozen=True)
class Names:
    """Of the runs, as the texts call them: `few` and `many` steps, several starts of many, queries, a larger eps."""

    few: str
    many: str
    restarts: str
    black: str
    one: str = "one step"
    larger: str = "eps x 4"


@dataclass(frozen=True)
class Run:
    """(B,): how far the loss rose over that of the input, at least 0; whether it is past the threshold."""

    rise: Tensor
    fooled: Tensor


@dataclass(frozen=True)
class Seen:
    """(B,): the losses of two looks at the input; whether the gradient is zero at a random point of the ball."""

    first: Tensor
    second: Tensor
    zero: Tensor


@dataclass
class Results:
    """The runs on one batch by name; ``clean``: (B,) float64, the loss at the input."""

    clean: Tensor
    runs: dict[str, Run] = field(default_factory=dict)

    @property
    def floor(self) -> Tensor:
        """(B,): what counts as no rise: rounding."""
        return 1e-5 * self.clean.abs() + 1e-12

    def beats(self, name: str, other: str, tolerance: float) -> Tensor:
        """(B,) bool: a rise clearly larger, on a sample that ``other`` does not fool anyway."""
        mine, theirs = self.runs[name], self.runs[other]
        return (mine.rise > theirs.rise * (1 + tolerance) + self.floor) & ~theirs.fooled


def mean(flags: Tensor) -> float:
    return flags.double().mean().item()


def _finding(name: str, flags: Tensor, good: str, bad: Callable[[str], str], least: float = FEW) -> Finding:
    """A warning where the share of flagged samples reaches ``least``."""
    share, some = mean(flags), int(flags.sum())
    of = f"{some} of {flags.numel()} samples"
    warns = some > 0 and share >= least
    return Finding(name, warns, bad(of) if warns else good + (f" (except on {of})" if some else ""), share)


def of_look(look: Seen, eot: int) -> list[Finding]:
    differs = (look.first - look.second).abs() > 1e-5 * look.first.abs()
    advice = f"average over more draws than eot={eot}" if eot > 1 else "average over its draws with eot"
    return [
        _finding(
            "random model", differs & (eot == 1), "two evaluations agree" if eot == 1 else f"averaged over {eot} draws",
            lambda of: f"two evaluations of the same input differ on {of}; {advice}", 0.0,
        ),
        _finding(
            "zero gradients", look.zero, "every sample has a gradient",
            lambda of: f"every number of the gradient is 0 on {of}; take an objective that "
            "does not saturate (cw_margin, dlr), or replace what rounds by something smooth in the backward pass", 0.0,
        ),
    ]  # fmt: skip


def of_runs(results: Results, names: Names) -> list[Finding]:
    flat = (results.runs[names.many].rise <= results.floor) & ~results.runs[names.many].fooled
    falls = results.beats(names.few, names.many, 0.1)
    larger = results.beats(names.larger, names.many, 0.1) | results.runs[names.many].fooled
    return [
        _finding(
            "one step against many", results.beats(names.one, names.many, 0.1), f"{names.many} are as good or better",
            lambda of: f"one step reaches more than {names.many} on {of}; the way there is rough (masked gradients) "
            "or the steps are badly chosen",
        ),
        _finding(
            "steps", flat | falls, "the loss rises with steps",
            lambda of: f"{names.many} raise the loss not at all, or less than {names.few}, on {of}: masked gradients",
        ),
        _finding(
            "converged", results.beats(names.many, names.few, 0.5), f"{names.few} come near {names.many}",
            lambda of: f"{names.many} reach half as much again as {names.few} on {of}; take more steps", 0.5,
        ),
        _finding(
            "restarts", results.beats(names.restarts, names.many, 0.25), "one start is as good as several",
            lambda of: f"{names.restarts} reach a quarter more than one start on {of}: take more of them, and suspect "
            "masked gradients",
        ),
        _finding(
            "black box", results.beats(names.black, names.restarts, 0.1), "gradients do better than queries",
            lambda of: f"{names.black} without gradients reaches more than {names.restarts} with them on {of}: masked "
            "gradients",
        ),
        _finding(
            "eps", ~larger, "the loss rises with eps",
            lambda of: f"four times the eps raises the loss no further on {of}: masked gradients",
        ),
    ]  # fmt: skip


def of_variants(results: Results, many: str, others: list[str]) -> Finding:
    """Other backward passes through a defence, against its own."""
    flags = torch.stack([results.beats(name, many, 0.1) for name in others]).any(0)
    best = max(others, key=lambda name: results.runs[name].rise.mean().item())
    return _finding(
        "backward pass", flags, f"no other backward pass does better ({', '.join(others)})",
        lambda of: f"another backward pass through the defence reaches more on {of}, {best} the most: attack with "
        f"gradient={best.partition('+')[0]!r}",
    )  # fmt: skip


def of_fresh(results: Results, one: str, averaged: str, eot: int) -> Finding:
    """In noise that no attack has seen: gradients in known noise, against means over draws."""
    return _finding(
        "fresh noise", results.beats(averaged, one, 0.1), f"{averaged} does no better in noise that no attack knows",
        lambda of: f"in noise that the attack does not know, a mean over {eot} draws reaches more on {of}: attack with "
        f"eot={eot} or more",
    )  # fmt: skip


def of_no_limit(results: Results) -> Finding:
    return _finding(
        "no limit", ~results.runs["no limit"].fooled, "every sample is fooled without a limit",
        lambda of: f"a perturbation as large as the range of the images does not fool {of}: masked gradients, or a "
        "threshold that cannot be reached", 0.05,
    )  # fmt: skip
