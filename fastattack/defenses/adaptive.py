"""A defended model under the blind attack and under those that know of the defence, side by side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..attacks import PGD, Attack
from ..engine import Models, Schedule
from ..engine.combine import losses
from ..guard import rows_of
from ..objectives import Objective, mse
from .defended import Defended
from .purifier import GRADIENTS, Purified

WAYS = ("blind", *GRADIENTS, *(f"{kind}+eot" for kind in GRADIENTS))
OWN = ("blind", "own", "own+eot")  # a defence that is no purifier has one backward pass


@dataclass(frozen=True)
class AdaptiveRow:
    """What the perturbations of one attack do to the defended model. Losses are (B,) float64 on the CPU.

    Attributes:
        name: the way: "clean", "blind", "full", "bpda", "surrogate", "own", or one of the last four with "+eot".
        adversarial: (B, ...), what the attack found.
        known: the loss under the noise of draw 0, which attacks without EOT know.
        fresh: the mean loss over draws that no attack has seen, the same for every row.
        fooled: (B,) the share of these draws in which the loss is past the threshold; None without one.
        seconds: that the attack took.
    """

    name: str
    adversarial: Tensor
    known: Tensor
    fresh: Tensor
    fooled: Tensor | None
    seconds: float


@dataclass(frozen=True)
class AdaptiveReport:
    """What `adaptive_check` found; ``print(report)`` shows the table.

    Attributes:
        clean: the loss of the images as they are.
        rows: one for each attack, in the order asked for.
        draws: of fresh noise.
        targeted: the attacks lower the loss.
    """

    clean: AdaptiveRow
    rows: tuple[AdaptiveRow, ...]
    draws: int
    targeted: bool

    def row(self, name: str) -> AdaptiveRow:
        """The row of a way.

        Raises:
            KeyError: it was not tried.
        """
        found = {row.name: row for row in self.rows}
        if name not in found:
            raise KeyError(f"name: wanted one of {', '.join(found)}, got {name!r}")
        return found[name]

    def rise(self, row: AdaptiveRow) -> Tensor:
        """(B,) how far the mean loss over fresh draws went the attack's way from that of the clean images."""
        return (row.fresh - self.clean.fresh) * (-1.0 if self.targeted else 1.0)

    @property
    def strongest(self) -> AdaptiveRow:
        """The row whose mean loss over fresh draws went furthest: the number to tell of a defence."""
        return max(self.rows, key=lambda row: float(self.rise(row).mean()))

    @property
    def worst(self) -> Tensor:
        """(B,) the furthest rise of each sample over all rows: at least what an attacker who tries all of them gets."""
        return torch.stack([self.rise(row) for row in self.rows]).amax(0)

    def __str__(self) -> str:
        told = self.clean.fooled is not None
        lines = [
            f"A defended model, {len(self.clean.fresh)} samples, {self.draws} fresh draws",
            "",
            f"{'attack':14}  known noise  fresh noise     rise ± s.e.{'  fooled' if told else ''}  seconds",
        ]
        for row in (self.clean, *self.rows):
            rise = self.rise(row)
            error = float(rise.std() / len(rise) ** 0.5) if len(rise) > 1 else float("nan")
            middle = f"{float(rise.mean()):.3g} ± {error:.1g}" if row is not self.clean else ""
            fooled = f"  {float(row.fooled.mean()):6.1%}" if row.fooled is not None else ""
            mark = "  <- strongest" if row is self.strongest else ""
            known, fresh = float(row.known.mean()), float(row.fresh.mean())
            lines.append(f"{row.name:14}  {known:11.4g}  {fresh:11.4g}  {middle:>14}{fooled}  {row.seconds:7.1f}{mark}")
        return "\n".join(lines)


def adaptive_check(
    model: Defended,
    x: Tensor,
    target: Any,
    *,
    eps: float | Tensor,
    objective: Objective = mse,
    norm: str = "linf",
    bounds: tuple[float, float] | None = None,
    threshold: float | None = None,
    targeted: bool = False,
    mask: Tensor | None = None,
    ways: Sequence[str] | None = None,
    steps: int = 40,
    eot: int = 4,
    draws: int = 8,
    seed: int = 0,
    max_batch: int | None = None,
) -> AdaptiveReport:
    """PGD blind and adaptive against a defended model: which backward pass finds most, and what the defence is worth.

    Blind: on the model alone. Adaptive: through the purifier by each backward pass (``gradient`` of `Purifier`), or
    through another defence by its own, with the noise of draw 0 throughout, or with "+eot" the mean over ``eot`` fresh
    draws at each step (Athalye et al., arXiv 1802.00420). All perturbations are judged by the defended model in the
    same noise: in that of draw 0, and in ``draws`` others that no attack has seen. A defence is worth at most what the
    strongest of the rows leaves of it.

    Cost: steps gradients for each way, times eot with "+eot" (and as many forward passes again, by which iterates are
    compared in one noise).

    Args:
        model, x, target, eps, objective, norm, bounds, targeted, mask, steps, eot, seed, max_batch: as for `PGD`.
        threshold: a sample is fooled where its loss is past it: 0 with the objective cw_margin.
        ways: to try, of "blind", "full", "bpda", "surrogate", "full+eot", "bpda+eot", "surrogate+eot" behind a
            purifier (None: all), of "blind", "own", "own+eot" behind another defence (None: the first two).
        draws: of fresh noise, by which the perturbations are judged.

    Raises:
        TypeError, ValueError: an argument, the model or the objective do not fit. NonFiniteError: NaN or infinity on
            the way.
    """
    ways = _checked(model, ways, eot, draws)
    judge = _Judge(model, target, objective, threshold, targeted, draws, seed, max_batch)
    common: dict[str, Any] = {
        "eps": eps, "objective": objective, "norm": norm, "bounds": bounds, "targeted": targeted, "steps": steps,
        "seed": seed, "max_batch": max_batch,
    }  # fmt: skip
    rows = []
    for way in ways:
        kind, _, averaged = way.partition("+")
        attack: Attack = PGD(_seen(model, kind), eot=eot if averaged else 1, **common)
        began = time.perf_counter()
        adversarial = attack(x, target, mask=mask)
        rows.append(judge.row(way, adversarial, time.perf_counter() - began))
    return AdaptiveReport(judge.row("clean", x, 0.0), tuple(rows), draws, targeted)


def _seen(model: Defended, kind: str) -> Models:
    """What an attack gets its gradients from."""
    if kind == "blind":
        return model.model
    return model.purifier.replaced(gradient=kind)(model.model) if isinstance(model, Purified) else model


def _checked(model: Any, ways: Sequence[str] | None, eot: Any, draws: Any) -> tuple[str, ...]:
    """The ways to try."""
    if not isinstance(model, Defended):
        raise TypeError(f"model: wanted a model behind a defence, purifier(model), got {type(model).__name__}")
    known = WAYS if isinstance(model, Purified) else OWN
    found = (known if isinstance(model, Purified) else known[:2]) if ways is None else tuple(ways)
    if isinstance(ways, str) or not found or len(set(found)) != len(found) or not set(found) <= set(known):
        raise ValueError(f"ways: wanted some of {', '.join(map(repr, known))}, each once, got {ways!r}")
    averaged = any(way.endswith("+eot") for way in found)
    for name, value, least in (("eot", eot, 2 if averaged else 1), ("draws", draws, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}: wanted a whole number >= {least}, got {value!r}")
    return found


@dataclass(frozen=True)
class _Judge:
    """The defended model in known and in fresh noise."""

    model: Defended
    target: Any
    objective: Objective
    threshold: float | None
    targeted: bool
    draws: int
    seed: int
    max_batch: int | None

    def row(self, name: str, x: Tensor, seconds: float) -> AdaptiveRow:
        known = self._losses(x, 0)
        # An attack's draws are 63 bits of its seed and step: those it has never seen are the first few.
        fresh = torch.stack([self._losses(x, draw) for draw in range(1, self.draws + 1)])
        fooled = None
        if self.threshold is not None:
            past = fresh < self.threshold if self.targeted else fresh > self.threshold
            fooled = past.double().mean(0)
        return AdaptiveRow(name, x.detach(), known, fresh.mean(0), fooled, seconds)

    def _losses(self, x: Tensor, draw: int) -> Tensor:
        """(B,) float64 on the CPU, under the noise of one draw."""
        count = len(x)
        size = self.max_batch or count
        rows = [slice(first, first + size) for first in range(0, count, size)]
        batches = [(x[part], rows_of(self.target, part, count)) for part in rows]
        return losses(
            self.model, batches, objective=self.objective, schedule=Schedule(steps=1, seed=self.seed), draw=draw
        ).cpu()
