"""The independent attacks of several models on one batch, in one sweep."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from .attacks.base import Attack, AttackResult
from .engine import Model

WAYS = ("auto", "turns", "stacked")


@dataclass(frozen=True)
class EachResult:
    """What `attack_each` found.

    Attributes:
        results: one `AttackResult` for each model, under its name (its number, where the models came as a sequence).
        how: "turns" or "stacked".
        seconds: of the whole sweep.
        probed: seconds of one gradient of all models by each way, where "auto" measured them.
    """

    results: dict[str | int, AttackResult]
    how: str
    seconds: float
    probed: dict[str, float]


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

    Args:
        models: called as model(x); a mapping keeps its names.
        x, target, mask, sample_ids: as for `Attack.run`.
        attack: makes the attack of one model: ``lambda m: fa.PGD(m, eps=8/255)``.
        how: "turns" runs one after the other. "stacked" runs models of one architecture as one (torch.func, parameters
            stacked): their activations are alive together, and the parameters once more. "auto" times one gradient
            of both ways where both can be and enough steps follow, and takes the faster; many small models on a GPU
            are where stacking pays.

    Raises:
        ValueError, TypeError: no models, another ``how``, models or an attack that cannot be stacked.
    """
    pairs = models.items() if isinstance(models, Mapping) else enumerate(models)
    named: dict[str | int, Model] = {name: model for name, model in pairs}  # noqa: C416 (two types of key)
    if not named:
        raise ValueError("models: wanted at least one model, got none")
    if how not in WAYS:
        raise ValueError(f"how: wanted one of {', '.join(map(repr, WAYS))}, got {how!r}")
    attacks = {name: attack(model) for name, model in named.items()}
    began = time.perf_counter()
    reason = _why_not(list(named.values()), next(iter(attacks.values())))
    if how == "stacked" and reason:
        raise ValueError(f"how: 'stacked' cannot be: {reason}")
    probed: dict[str, float] = {}
    if how == "auto":
        how = "turns"
        schedule = next(iter(attacks.values())).schedule
        if not reason and len(named) > 1 and schedule.steps * schedule.restarts >= 10:
            probed = {way: _probe(way, attacks, attack, x, target) for way in ("turns", "stacked")}
            how = min(probed, key=lambda way: probed[way])
    if how == "turns":
        results = {n: a.run(x, target, mask=mask, sample_ids=sample_ids) for n, a in attacks.items()}
    else:
        results = _stacked(list(attacks), list(named.values()), attack, x, target, mask, sample_ids)
    return EachResult(results, how, time.perf_counter() - began, probed)


def _why_not(models: list[Model], attack: Attack) -> str:
    """Why these models cannot be stacked under this attack; "" where they can."""
    if not all(isinstance(m, nn.Module) for m in models):
        return "not every model is an nn.Module"
    shapes = [[(n, t.shape, t.dtype, t.device) for n, t in m.state_dict().items()] for m in models]  # type: ignore[attr-defined]
    if any(type(m) is not type(models[0]) or str(m) != str(models[0]) for m in models) or any(
        s != shapes[0] for s in shapes
    ):
        return "the models differ in architecture"
    if attack.schedule.stop is not None:
        return f"stop={attack.schedule.stop!r} takes samples out of the batch"
    if type(attack).run is not Attack.run:
        return f"{type(attack).__name__} does not attack sample by sample"
    if not attack.schedule.eval_mode:
        return "eval_mode=False lets the models write their buffers"
    return ""


class Stacked:
    """Models of one architecture as one: row b * M + m of the batch goes through model m."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self.count = len(models)
        with torch.no_grad():
            copies = [copy.deepcopy(m).eval().requires_grad_(False) for m in models]
            self.state = stack_module_state(copies)
        self.base = copies[0].to("meta")

    def __call__(self, x: Tensor) -> Tensor:
        apart = x.reshape(-1, self.count, *x.shape[1:])
        out: Tensor = torch.vmap(self._one, in_dims=(0, 0, 1), out_dims=1, randomness="different")(*self.state, apart)
        return out.reshape(x.shape[0], *out.shape[2:])

    def _one(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Any:
        return functional_call(self.base, (parameters, buffers), (x,))


def _stacked(
    names: list[str | int], models: list[Any], make: Callable[[Any], Attack], x: Tensor, target: Any,
    mask: Tensor | None, sample_ids: Tensor | None,
) -> dict[str | int, AttackResult]:  # fmt: skip
    count, batch = len(models), x.shape[0]

    def spread(value: Any) -> Any:
        """One row for each model beside each sample's."""
        per_sample = isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == batch
        return value.repeat_interleave(count, 0) if per_sample else value

    one = make(Stacked(models))
    one.threat = replace(one.threat, eps=spread(one.threat.eps), sparsity=spread(one.threat.sparsity))
    size = one.schedule.max_batch or batch
    one.schedule = replace(one.schedule, step=spread(one.schedule.step), max_batch=max(1, size // count) * count)
    one.sigma = spread(one.sigma)
    ids = torch.arange(batch, device=x.device) if sample_ids is None else sample_ids
    where = mask.expand(x.shape) if mask is not None else None
    found = one.run(spread(x), spread(target), mask=spread(where), sample_ids=spread(ids))

    def rows(value: Any, m: int) -> Any:
        if isinstance(value, Tensor):
            return value[m::count]
        if isinstance(value, tuple):  # NoiseStats
            return type(value)(*(rows(v, m) for v in value))
        return value

    parts = [{k: rows(v, m) for k, v in vars(found).items()} for m in range(count)]
    return {
        name: AttackResult(**(part | {"seconds": found.seconds / count}))
        for name, part in zip(names, parts, strict=True)
    }


def _probe(way: str, attacks: dict[str | int, Attack], make: Callable[[Any], Attack], x: Tensor, target: Any) -> float:
    """Seconds of one gradient of every model, after one to warm up."""
    best = float("inf")
    for _ in range(2):
        began = time.perf_counter()
        if way == "turns":
            for one in attacks.values():
                _one_gradient(one, x, target)
        else:
            models: list[Any] = [a.model for a in attacks.values()]
            rows = torch.arange(len(x)).repeat_interleave(len(models)).to(x.device)
            goal = target[rows] if isinstance(target, Tensor) and target.shape[:1] == x.shape[:1] else target
            _one_gradient(make(Stacked(models)), x[rows], goal)
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)
        best = min(best, time.perf_counter() - began)
    return best


def _one_gradient(attack: Attack, x: Tensor, target: Any) -> None:
    from .guard import left_as_found

    with left_as_found(attack.model, x.device, eval_mode=True), torch.enable_grad():  # type: ignore[arg-type]
        leaf = x.detach().clone().requires_grad_(True)
        loss = attack.objective(attack.model(leaf), target).sum()  # type: ignore[operator]
        torch.autograd.grad(loss, leaf)
