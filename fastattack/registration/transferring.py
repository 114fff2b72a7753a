"""Transfer between registration models: whose attack hurts whom, in which measure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from ..engine import Model
from ..evaluate.bootstrap import Array, Bootstrap, Estimate, plain
from .attacking import RegistrationAttack, attack_registration
from .harm import MEASURES, Harm, fields_of, harm_of
from .measures import Measures
from .sides import check_pair
from .truth import Truth


@dataclass(frozen=True)
class RegistrationTransfer:
    """What attacks on M source models did to N target models, over S pairs, in each measure that is known.

    Attributes:
        sources, targets: names; sources come first among the targets.
        before: by measure (S, N), the targets on the pairs as they were.
        after: by measure (S, M, N), target j on the pairs that were crafted on source i.
        rise: by measure (M, N), the mean over pairs of after - before with its bootstrap interval. Errors and folds
            rise in harm, Dice and the least determinant fall.
        attacks: the attack on each source.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    before: dict[str, Array] = field(repr=False)
    after: dict[str, Array] = field(repr=False)
    rise: dict[str, Estimate]
    attacks: dict[str, RegistrationAttack] = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, None for what is not defined."""
        found: dict[str, Any] = {"sources": list(self.sources), "targets": list(self.targets)}
        for name, rise in self.rise.items():
            before, after = (plain(a[name].mean(0)) for a in (self.before, self.after))
            found[name] = {"before": before, "after": after, "rise": rise.as_lists()}
        return found


def transfer(
    models: Mapping[str, Model],
    pair: Tensor,
    truth: Truth | None = None,
    *,
    targets: Mapping[str, Model] | None = None,
    own: Mapping[str, Mapping[str, Any]] | None = None,
    bootstrap: Bootstrap | None = None,
    **options: Any,
) -> RegistrationTransfer:
    """How far attacks carry: crafted once on each model, measured on all of them.

    Args:
        models: name -> model(pair) -> field.
        pair: (B, 2, *spatial). truth: what is known of them; None: each model's own field of the unattacked pairs.
        targets: further models, which are not attacked.
        own: options of `attack_registration` for some of the models, over ``options``: a black box among models that
            have gradients, {"syn": {"attack": fa.Square, "queries": 500}}.
        bootstrap: how the intervals over pairs are made.
        options: of `attack_registration`: side, attack, objective, eps, ...

    Raises:
        TypeError, ValueError: names given twice, or of no model; and what `attack_registration` raises.
    """
    check_pair(pair)
    if not models:
        raise ValueError("models: wanted at least one model, got none")
    further, own = dict(targets or {}), dict(own or {})
    for argument, names in (("targets", further.keys() & models.keys()), ("own", own.keys() - models.keys())):
        if names:
            wanted = "other names than those of the models" if argument == "targets" else "names of the models"
            raise ValueError(f"{argument}: wanted {wanted}, got {', '.join(sorted(names))}")
    attacks = {
        name: attack_registration(model, pair, truth, **{**options, **own.get(name, {})})
        for name, model in models.items()
    }
    everyone: dict[str, Model] = {**models, **further}
    how = {name: found.how for name, found in attacks.items()}  # each model as its own attack has run it
    size = options.get("batch", options.get("max_batch"))
    given = {"ids": options.get("sample_ids"), "eval_mode": options.get("eval_mode", True), "max_batch": size}
    how |= dict.fromkeys(further, given)
    known = {name: found.harm.field_before for name, found in attacks.items()}
    known |= {name: fields_of(model, pair, **how[name]) for name, model in further.items()}

    def harm(source: str, target: str) -> Harm:
        if source == target:
            return attacks[source].harm
        made = attacks[source].adversarial
        return harm_of(everyone[target], pair, made, truth, **how[target], field_before=known[target])

    harms = [[harm(source, target) for target in everyone] for source in attacks]
    present = [name for name in MEASURES if getattr(harms[0][0].before, name) is not None]
    before = {name: np.stack([_column(h.before, name) for h in harms[0]], axis=1) for name in present}
    after = {
        name: np.stack([np.stack([_column(h.after, name) for h in row], axis=1) for row in harms], axis=1)
        for name in present
    }
    rise = (bootstrap or Bootstrap()).means({name: after[name] - before[name][:, None] for name in present})
    return RegistrationTransfer(tuple(models), tuple(everyone), before, after, rise, attacks)


def _column(measures: Measures, name: str) -> Array:
    value: Array = getattr(measures, name).double().cpu().numpy()
    return value
