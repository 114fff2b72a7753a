"""Attacks on registration models: one image of the pair or both, any attack, ball and objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..attacks import PGD, Attack, AttackResult, DenoisingPGD, ObsAtk
from ..each import named_models
from ..engine import Models, Progress
from ..objectives import Objective
from ..objectives.registration import field_error, overlap, target_registration_error
from .harm import Harm, check_truth, fields_of, harm_of, without_answer
from .sides import SIDES, channels_of, check_dims, check_pair, one_side
from .truth import Truth

Craft = Callable[..., Attack]
"""Makes an attack as attack(model, objective=..., **options): a class such as fa.PGD, or a function."""
ONLY = "model"
"""The name of a model that is alone."""
_WITHOUT_BOUNDS = (DenoisingPGD, ObsAtk)


@dataclass(frozen=True)
class RegistrationAttack:
    """What an attack on registration did.

    Attributes:
        adversarial: (B, 2, *spatial), the pairs; the side that was not attacked is as it was, to the bit.
        result: what the attack says; its ``adversarial`` is the attacked side alone.
        harms: for each model by name (one alone is "model") its fields and measures before and after.
        how: what they were measured with, options of `harm_of`: ids, eval_mode, max_batch.
    """

    adversarial: Tensor = field(repr=False)
    result: AttackResult = field(repr=False)
    harms: Mapping[str, Harm]
    how: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def harm(self) -> Harm:
        """Of the model, where there is one. Raises ValueError where there are several."""
        if len(self.harms) != 1:
            raise ValueError(f"harm: wanted one model, got {', '.join(self.harms)}; see harms")
        return next(iter(self.harms.values()))


def attack_registration(
    model: Models,
    pair: Tensor,
    truth: Truth | None = None,
    *,
    side: str = "both",
    attack: Craft = PGD,
    objective: Objective | None = None,
    clean: Tensor | None = None,
    mask: Tensor | None = None,
    sample_ids: Tensor | None = None,
    start: Tensor | None = None,
    progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> RegistrationAttack:
    """Change the moving image, the fixed one or both, so that the model's field gets worse.

    The ball is that of what is attacked: with side="both" an l2 or l1 radius, and with ``preserve_noise`` the mean and
    norm of the noise, are those of both images together.

    Args:
        model: called as model(pair) -> field, or several, in a sequence or mapping, for one attack on all.
        pair: (B, 2, *spatial), moving and fixed.
        truth: what is known of the pairs. None, or one without field, landmarks and labels: the model's own field of
            the unattacked pair stands for the true one, and the attack moves the field away from there; for one model
            alone.
        side: "moving", "fixed" or "both".
        attack: makes the attack: a class such as fa.PGD, fa.APGD, fa.Square (no gradient), or a function.
        objective: what to climb; None: by what the truth knows, as `default_objective` chooses.
        clean: (B, 2, *spatial), the pair without noise, for ``preserve_noise``.
        mask, start: like ``pair``; of the side that is not attacked they do not count.
        sample_ids: (B,) the samples' names, all different.
        options: of the attack: eps, norm, steps, ... ``bounds`` is (0, 1) where it is not given, but with
            preserve_noise and zero_mean, which exclude it.

    Raises:
        TypeError, ValueError: an argument, the model or the objective do not fit; the message names it.
        NonFiniteError, ArithmeticError: NaN or infinity on the way, or in a field.
        MemoryError: as for `Attack.run`.
    """
    check_pair(pair)
    known = check_truth(truth, pair)
    named, victim = victim_of(model, pair, side, sample_ids)
    built = build(attack, victim, objective or default_objective(known), options)
    how: dict[str, Any] = {
        "ids": sample_ids, "eval_mode": built.schedule.eval_mode, "max_batch": size_of(built),
    }  # fmt: skip
    check_built(built, side, truth=known, clean=clean, given=objective, start=start)
    channels = channels_of(side)
    given = {"clean": _like(clean, pair, "clean"), "start": _like(start, pair, "start"), "mask": _over(mask, pair)}
    called: dict[str, Any] = {
        name: value[:, channels].contiguous() for name, value in given.items() if value is not None
    }
    called |= {k: v for k, v in (("sample_ids", sample_ids), ("progress", progress)) if v is not None}
    goal, before = goal_of(named, pair, known, how)
    result = built.run(pair[:, channels].contiguous(), goal, **called)
    adversarial = pair.detach().clone()
    adversarial[:, channels] = result.adversarial
    harms = {
        name: harm_of(one, pair, adversarial, goal, **how, field_before=before.get(name)) for name, one in named.items()
    }
    return RegistrationAttack(adversarial, result, harms, how)


def _like(value: Any, pair: Tensor, name: str) -> Tensor | None:
    if value is not None and (not isinstance(value, Tensor) or value.shape != pair.shape):
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name}: wanted a pair {tuple(pair.shape)} as the attacked one is, got {got}")
    return value


def _over(mask: Any, pair: Tensor) -> Tensor | None:
    if mask is None:
        return None
    try:
        return torch.as_tensor(mask, device=pair.device).expand_as(pair)
    except RuntimeError as error:
        raise ValueError(f"mask: wanted one that broadcasts to the pair {tuple(pair.shape)}, got {error}") from error


# -- what attacks share ------------------------------------------------------------------------------------------------


def victim_of(model: Models, pair: Tensor, side: str, ids: Tensor | None = None) -> tuple[dict[str, Any], Any]:
    """The models by name; and what an attack on this side is made with: one model, or several by name."""
    several = isinstance(model, (Mapping, Sequence, nn.ModuleDict, nn.ModuleList))
    named: dict[str, Any] = {str(k): v for k, v in named_models(model).items()} if several else {ONLY: model}
    both = channels_of(side) == SIDES["both"]
    for one in named.values():
        check_dims(one, pair)
    sided = {name: one if both else one_side(one, pair, side, ids=ids) for name, one in named.items()}
    return named, sided if several else sided[ONLY]


def default_objective(truth: Truth) -> Objective:
    """The error of the field where it is known, else at landmarks, else the overlap of labels.

    With nothing known it is the error of the field too: the model's own is put in its place.
    """
    if truth.field is None and truth.landmarks is not None:
        return target_registration_error()
    if truth.field is None and (truth.labels_moving is not None or truth.labels_fixed is not None):
        return overlap()
    return field_error()


def build(attack: Craft, victim: Any, objective: Objective, options: dict[str, Any]) -> Attack:
    """The attack, inside the range of images where nothing else is said."""
    if not callable(attack):
        raise TypeError(f"attack: wanted a class such as fa.PGD or a function that makes an attack, got {attack!r}")
    free = options.get("preserve_noise") or options.get("zero_mean") or attack in _WITHOUT_BOUNDS
    chosen = options if free else {"bounds": (0.0, 1.0), **options}
    built = attack(victim, objective=objective, **chosen)
    if not isinstance(built, Attack):
        raise TypeError(f"attack: wanted a class or function that makes an attack, got {type(built).__name__} of it")
    return built


def size_of(built: Attack) -> int | None:
    """Pairs that go through a model at a time."""
    size: int | None = getattr(built, "batch", built.schedule.max_batch)
    return size


def goal_of(
    named: Mapping[str, Any], pair: Tensor, known: Truth, how: dict[str, Any]
) -> tuple[Truth, dict[str, Tensor]]:
    """What is climbed away from, and fields of the unattacked pairs that are known by it."""
    if not without_answer(known):
        return known, {}
    if len(named) != 1:
        raise ValueError(f"truth: wanted what is known of the pairs for {len(named)} models, each with another field")
    name, one = next(iter(named.items()))
    before = fields_of(one, pair, **how)
    return replace(known, field=before), {name: before}


def check_built(
    built: Attack, side: str, *, truth: Truth, clean: Tensor | None, given: Objective | None,
    start: Tensor | None,
) -> None:  # fmt: skip
    """Raises ValueError for an attack that would do something else than it says."""
    if built.threat.preserve_noise and clean is None:
        raise ValueError("clean: wanted the pair without noise with preserve_noise=True, got None")
    if side != "both" and built.view is not None and getattr(built.view, "moves_target", True):
        raise ValueError(
            "view: wanted one that leaves every voxel in its place (and says so: moves_target = False) with "
            f"side={side!r}"
        )
    kind = built.rule.func if isinstance(built.rule, partial) else built.rule
    climbs = getattr(kind, "needs_gradient", True) and start is None and not built.schedule.random_start
    if without_answer(truth) and given is None and climbs:
        raise ValueError(
            f"truth: wanted what is known of the pairs for {type(built).__name__}, which begins at the pair itself, "
            "where the distance to the model's own field has no slope; got None"
        )
