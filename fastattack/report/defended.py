"""Models behind defences, as the report and the terminal show them: under the blind and under the adaptive attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .study import NBSP, Estimate, Results, estimate, number


@dataclass(frozen=True)
class DefendedRow:
    """One model behind one defence at one eps; PSNR in dB, None where a model failed.

    Attributes:
        name, model, defense: "dncnn+purifier", "dncnn", and the defence's text.
        alone: of the model without the defence under the attack crafted on it.
        clean: of the defended model where nothing is attacked.
        blind: under the attack crafted on the model alone.
        adaptive: under the attack crafted through the defence.
        how: how gradients pass the defence.
        noise: what the attack knows of the defence's draws; "" where it draws nothing.
    """

    eps: float
    name: str
    model: str
    defense: str
    alone: Estimate | None
    clean: Estimate | None
    blind: Estimate | None
    adaptive: Estimate | None
    how: str
    noise: str

    @property
    def counts(self) -> Estimate | None:
        """The stronger of the two attacks."""
        there = [one for one in (self.blind, self.adaptive) if one is not None]
        return min(there, key=lambda one: one.mean, default=None)

    @property
    def masked(self) -> bool:
        """The attack through the defence does less than the one that does not know it."""
        return self.blind is not None and self.adaptive is not None and self.blind.mean < self.adaptive.mean


def defended_rows(results: Results) -> list[DefendedRow]:
    """One for each eps and each model that was attacked through a defence; [] where there is none."""
    found = []
    for matrix in results["matrices"]:
        sources, targets = matrix["sources"], matrix["targets"]
        for name, model in results["models"].items():
            told = model.get("defense")
            if told is None or name not in sources:
                continue
            here, alone = targets.index(name), targets.index(told["model"])
            i, j = sources.index(told["model"]), sources.index(name)
            after = matrix["psnr_after"]
            found.append(DefendedRow(
                float(matrix["eps"]), name, told["model"], told["spec"], estimate(after, i, alone),
                estimate(matrix["psnr_before"], here), estimate(after, i, here), estimate(after, j, here), told["how"],
                _noise(told, results["config"]),
            ))  # fmt: skip
    return found


def _noise(told: dict[str, Any], config: dict[str, Any]) -> str:
    if not told["random"]:
        return ""
    eot = config.get("eot", 1)
    return "known to the attack" if eot == 1 else f"unknown, {eot} draws averaged"


def defended_findings(results: Results, eps: float) -> list[str]:
    """A sentence for each defended model at one eps."""
    found = []
    for row in defended_rows(results):
        if row.eps != eps or row.blind is None or row.adaptive is None:
            continue
        before = "" if row.clean is None else f" (not attacked: {_db(row.clean)})"
        alone = "" if row.alone is None else f", where {row.model} alone is left with {_db(row.alone)}"
        found.append(
            f"{row.name} has {_db(row.blind)} under the attack that does not know the defence{alone}, and "
            f"{_db(row.adaptive)} under the one through it{before}{_verdict(row)}."
        )
    return found


def _verdict(row: DefendedRow) -> str:
    """What the defence is worth under the stronger attack, beside the model alone under its own."""
    if row.alone is None or row.counts is None:
        return ""
    gain = row.counts.mean - row.alone.mean
    return f": it {'saves' if gain > 0 else 'costs'} {number(abs(gain), 2)}{NBSP}dB under attack"


def defended_warnings(results: Results) -> list[str]:
    """Where the attack through a defence is the weaker one: its gradients mislead, and no number is its robustness."""
    names = list(dict.fromkeys(row.name for row in defended_rows(results) if row.masked))
    if not names:
        return []
    return [
        f"The attack through the defence does less than the blind one for {', '.join(names)}: its gradients mislead. "
        "Take the lower PSNR; more steps, restarts, --eot or another gradient= may find less still."
    ]


def _db(value: Estimate) -> str:
    return f"{number(value.mean, 2)}{NBSP}dB"
