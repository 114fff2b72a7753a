"""One task under attack, before and behind defences: what is crafted, on what, and how it is judged."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import fastattack as fa
from fastattack.defenses import Defended, Purified
from fastattack.objectives import Objective

Attacker = Callable[..., Any]
"""(model, steps=..., eot=...) -> an attack of fastattack."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is spent.

    Attributes:
        steps: gradients of an attack on a model alone or behind a simple defence.
        through: of one through a purifier whose noise is known; averaged: of one with EOT, of ``eot`` draws each.
        slow: of one on the few images of a slow defence.
        draws: of fresh noise, by which a random defence is judged.
    """

    steps: int = 20
    through: int = 20
    averaged: int = 10
    slow: int = 5
    eot: int = 2
    draws: int = 3


@dataclass
class Case:
    """A task: its images, its plain model, what is made of them and how good an answer is.

    Attributes:
        score: (output, target) -> (B,), higher is better.
        attacks: by name; the first one is PGD with ``objective`` in the linf ball, as `adaptive_check` makes it.
        bounds: of the pixels, or None.
    """

    x: Tensor
    target: Tensor
    plain: nn.Module
    eps: float
    objective: Objective
    score: Callable[[Tensor, Tensor], Tensor]
    attacks: Mapping[str, Attacker]
    bounds: tuple[float, float] | None
    effort: Effort
    _blind: dict[str, Tensor] = field(default_factory=dict)

    def blind(self, name: str) -> Tensor:
        """What an attack that knows of the plain model alone makes of the images."""
        if name not in self._blind:
            self._blind[name] = self.attacks[name](self.plain, steps=self.effort.steps, eot=1)(self.x, self.target)
        return self._blind[name]

    def judge(self, model: nn.Module, x: Tensor, target: Tensor) -> list[float]:
        """Scores of a model; of a purified one the means over draws that no attack has seen."""
        with torch.no_grad():
            if not isinstance(model, Purified):
                return [float(v) for v in self.score(model(x), target)]
            draws = range(1, self.effort.draws + 1)
            found = torch.stack([self.score(model(x, None, draw), target).double() for draw in draws])
        return [float(v) for v in found.mean(0)]

    def row(
        self, defense: Any = None, model: nn.Module | None = None, *, count: int | None = None, adaptive: bool = True
    ) -> dict[str, Any]:
        """Scores clean, under what was crafted on the plain model, and under what was crafted on the defended one.

        Args:
            defense: before the model; None: none.
            model: another one than the plain, which then is the defence (adversarial training).
            count: the first images alone, where a defence is slow.
            adaptive: False: the blind attacks alone.
        """
        began = time.process_time()
        x, target = self.x[:count], self.target[:count]
        model = model or self.plain
        defended = model if defense is None else defense(model)
        found: dict[str, Any] = {
            "count": len(x),
            "clean": self.judge(defended, x, target),
            "blind": {name: self.judge(defended, self.blind(name)[:count], target) for name in self.attacks},
            "milliseconds": _cost(model if defense is None else defense.purify, x),
        }
        crafted = self._adaptive(defended, x, target) if adaptive else {}
        found["adaptive"] = {name: self.judge(defended, adversarial, target) for name, adversarial in crafted.items()}
        return found | {"cpu_seconds": round(time.process_time() - began, 1)}

    def _adaptive(self, model: nn.Module, x: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Attacks that know all; the blind ones are among them."""
        if model is self.plain:
            return {name: self.blind(name) for name in self.attacks}
        found = {f"{name}, blind": self.blind(name)[: len(x)] for name in self.attacks}
        if not isinstance(model, Purified):
            how = f", {model.how.rpartition(': ')[2]}" if isinstance(model, Defended) else ""
            steps = self.effort.steps if len(x) == len(self.x) else self.effort.slow
            for name, make in self.attacks.items():
                found[name + how] = make(model, steps=steps, eot=1)(x, target)
            return found
        first, *others = self.attacks
        effort = self.effort
        for ways, steps in ((("full", "bpda", "surrogate"), effort.through), (("full+eot",), effort.averaged)):
            report = fa.defenses.adaptive_check(
                model, x, target, eps=self.eps, objective=self.objective, bounds=self.bounds, ways=ways, steps=steps,
                eot=effort.eot, draws=1,
            )  # fmt: skip
            found |= {f"{first}, {row.name}": row.adversarial for row in report.rows}
        for name in others:
            made = self.attacks[name](model, steps=effort.averaged, eot=effort.eot)
            found[f"{name}, full+eot"] = made(x, target)
        return found


def _cost(change: Callable[[Tensor], Any], x: Tensor) -> float:
    """Milliseconds of this process for one image, in this batch; warm."""
    with torch.no_grad():
        change(x[:1])
        began = time.process_time()
        change(x)
    return 1e3 * (time.process_time() - began) / len(x)


def levels(case: Case, purifier: fa.Purifier, known: str, tried: list[int], shrinkage: float) -> dict[str, Any]:
    """The level by UAD-RS that one known attack asks for, what every attack would have asked for, and the scores."""
    attacked = {name: case.blind(name) for name in case.attacks}
    found = fa.select_noise_level(purifier, case.plain, case.x, attacked, tried, shrinkage=shrinkage)
    best = {name: found.levels[int(row.argmin())] for name, row in zip(found.attacks, found.distances, strict=True)}
    models = {level: purifier.replaced(t_star=level)(case.plain) for level in found.levels}
    return {
        "known": known, "chosen": best[known], "best": best, "count": found.images, "features": found.features,
        "levels": found.levels, "sigmas": [255 * s for s in found.sigmas], "attacks": found.attacks,
        "distances": found.distances.tolist(), "errors": found.errors.tolist(),
        "unpurified": found.unpurified.tolist(), "unpurified_scores": means(case, case.plain, attacked),
        "scores": {level: means(case, model, attacked) for level, model in models.items()},
    }  # fmt: skip


def means(case: Case, model: nn.Module, attacked: Mapping[str, Tensor]) -> dict[str, float]:
    """The mean score of the images as they are, and of those of each attack."""
    each = {name: case.judge(model, x, case.target) for name, x in {"clean": case.x, **attacked}.items()}
    return {name: sum(values) / len(values) for name, values in each.items()}
