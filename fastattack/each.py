"""The independent attacks of several models on one batch, in one sweep."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .attacks.base import Attack, AttackResult
from .engine import Model
from .inputs import told
from .stacked import probe, stackable, stacked

WAYS = ("auto", "turns", "stacked")


@dataclass(frozen=True)
class EachResult:
    """What `attack_each` found.

    Attributes:
        results: one `AttackResult` for each model, under its name (its number, where the models came as a sequence).
            After an interrupt with ``on_interrupt="return"`` the models that were not begun are missing, and the
            results of those that were broken off have ``complete`` False.
        how: "turns" or "stacked".
        seconds: of the whole sweep.
        probed: seconds of one step of all models by each way, where "auto" measured them.
        reason: why "auto" went in turns; "" where it did not.
        not_begun: names of the models without a result, after an interrupt.
    """

    results: dict[str | int, AttackResult]
    how: str
    seconds: float
    probed: dict[str, float]
    reason: str = ""
    not_begun: tuple[str | int, ...] = ()

    @property
    def complete(self) -> bool:
        """No interrupt ended the sweep."""
        return not self.not_begun and all(found.complete for found in self.results.values())


def attack_each(
    models: Mapping[str, Model] | Sequence[Model],
    x: Tensor,
    target: Any,
    *,
    attack: Callable[[Any], Attack],
    how: str = "auto",
    mask: Tensor | None = None,
    sample_ids: Tensor | None = None,
) -> EachResult:
    """Attack the same batch on each model by itself; the same as one call after the other, but for rounding.

    Ctrl-C with the attacks' ``on_interrupt="return"`` ends the whole sweep, and what there is comes back.

    Args:
        models: called as model(x); a mapping keeps its names.
        x, target, mask, sample_ids: as for `Attack.run`.
        attack: makes the attack of one model: ``lambda m: fa.PGD(m, eps=8/255)``.
        how: "turns" runs one after the other. "stacked" runs models of one architecture as one (torch.func, parameters
            stacked): their activations are alive together, and the parameters once more. Models that differ in
            anything but parameters and buffers, or have hooks, cannot be; nor attacks that differ. The outputs of both
            ways are compared once on the batch. "auto" times one step of both ways where both can be and enough steps
            follow, and takes the faster; many small models on a GPU are where stacking pays.

    Raises:
        ValueError, TypeError: no models, another ``how``, models or an attack that cannot be stacked.
    """
    named = named_models(models)
    if how not in WAYS:
        raise ValueError(f"how: wanted one of {', '.join(map(repr, WAYS))}, got {how!r}")
    attacks = {name: attack(model) for name, model in named.items()}
    began = time.perf_counter()
    sweep = _Sweep(list(named.values()), attacks, x, target, mask, sample_ids)
    try:
        sweep.run(how)
    except KeyboardInterrupt:
        if any(a.schedule.on_interrupt == "raise" for a in attacks.values()):
            raise
    missing = tuple(name for name in attacks if name not in sweep.results)
    return EachResult(sweep.results, sweep.ran, time.perf_counter() - began, sweep.probed, sweep.reason, missing)


class _Sweep:
    """The attacks under way; what they found is in ``results`` at every moment."""

    def __init__(
        self, models: list[Model], attacks: dict[str | int, Attack], x: Tensor, target: Any, mask: Tensor | None,
        sample_ids: Tensor | None,
    ) -> None:  # fmt: skip
        self.models, self.attacks, self.x, self.target = models, attacks, x, target
        self.mask, self.sample_ids = mask, sample_ids
        self.results: dict[str | int, AttackResult] = {}
        self.probed: dict[str, float] = {}
        self.ran, self.reason = "turns", ""

    def run(self, how: str) -> None:
        one = self._choose(how)
        if one is not None:
            self.ran = "stacked"
            try:
                self.results = stacked(one, list(self.attacks), self.x, self.target, self.mask, self.sample_ids)
                return
            except Exception as error:
                if how == "stacked":
                    raise
                self.ran, self.reason = "turns", told(error)
        for name, attack in self.attacks.items():
            found = attack.run(self.x, self.target, mask=self.mask, sample_ids=self.sample_ids)
            self.results[name] = found
            if not found.complete:  # the interrupt is for the sweep
                return

    def _choose(self, how: str) -> Attack | None:
        """The attack on the stacked models, where it is to be used."""
        attacks = list(self.attacks.values())
        first = attacks[0].schedule
        if how == "turns":
            return None
        if how == "auto" and (len(attacks) == 1 or first.steps * first.restarts < 10):
            self.reason = "one model, or too few steps"
            return None
        one, self.reason = stackable(self.models, attacks, self.x)
        if how == "stacked" and one is None:
            raise ValueError(f"how: 'stacked' cannot be: {self.reason}")
        if how == "auto" and one is not None:
            self.probed, self.reason = probe(one, attacks, self.x, self.target)
            if not self.reason and self.probed["turns"] <= self.probed["stacked"]:
                self.reason = "turns are faster"
        return None if self.reason else one


def named_models(models: Any) -> dict[str | int, Model]:
    """The models under their names, or numbers."""
    if isinstance(models, nn.Module) and not isinstance(models, (nn.ModuleList, nn.ModuleDict)):
        raise TypeError(
            f"models: wanted a sequence or mapping of models, got one {type(models).__name__}; write [model]"
        )
    if isinstance(models, (Mapping, nn.ModuleDict)):
        named = dict(models.items())
    elif isinstance(models, Iterable):
        named = dict(enumerate(models))
    else:
        raise TypeError(f"models: wanted a sequence or mapping of models, got {type(models).__name__}")
    if not named:
        raise ValueError("models: wanted at least one model, got none")
    return named
