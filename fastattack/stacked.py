"""Several models of one architecture as one, for attacks on all of them in one sweep."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from .alike import alike, difference
from .attacks.base import Attack, AttackResult
from .fast.precision import tf32
from .guard import Rowwise, fresh, left_as_found
from .inputs import told


def stackable(models: list[Any], attacks: list[Attack], x: Tensor) -> tuple[Attack | None, str]:
    """The attack on the stacked models; None, and why, where they cannot be stacked."""
    one = copy.copy(attacks[0])
    try:
        if reason := _why_not(models, attacks):
            return None, reason
        stacked = Stacked(models)
        reason = _outputs_differ(stacked, models, x, one.schedule.max_batch)
    except Exception as error:  # whatever torch.func cannot do
        return None, told(error)
    one.model = stacked
    return (None, reason) if reason else (one, "")


def _why_not(models: list[Any], attacks: list[Attack]) -> str:
    """What about the models or attacks forbids one run for all; "" where nothing is seen."""
    attack = attacks[0]
    if not all(isinstance(m, nn.Module) for m in models):
        return "not every model is an nn.Module"
    if attack.schedule.stop is not None:
        return f"stop={attack.schedule.stop!r} takes samples out of the batch"
    if type(attack).run is not Attack.run:
        return f"{type(attack).__name__} does not attack sample by sample"
    if not attack.schedule.eval_mode:
        return "eval_mode=False lets the models write their buffers"
    for model, one in zip(models, attacks, strict=True):
        if one.model is not model:
            return "the attack is not on the model itself (an ensemble, or a model inside another)"
        if type(one) is not type(attack):
            return "the attacks of the models differ"
        own = vars(attack)
        for name, value in vars(one).items():
            if name != "model" and (name not in own or not alike(own[name], value)):
                return f"the attacks of the models differ in {name}"
    return next((reason for m in models if (reason := difference(models[0], m))), "")


def _outputs_differ(stacked: Stacked, models: list[nn.Module], x: Tensor, max_batch: int | None) -> str:
    """Why not, where the models' outputs on the batch are not those of the stack."""
    rows = max(1, (max_batch or len(x)) // len(models))
    with ExitStack() as stack:
        for one in models:
            stack.enter_context(left_as_found(one, x.device, eval_mode=True))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(tf32(False))
        worst = 0.0
        for part in torch.split(fresh(x), rows):
            got = stacked(part.repeat_interleave(len(models), 0))
            for m, one in enumerate(models):
                want, here = one(part), got[m :: len(models)]
                if not isinstance(want, Tensor) or want.shape != here.shape or want.dtype != here.dtype:
                    return "a model's output is not one tensor made sample by sample"
                if want.numel() and bool(want.isfinite().all()):  # the attack names what is not finite
                    wide, size = want.double(), want.double().abs().max().clamp(min=1e-30)
                    worst = max(worst, float(((here.double() - wide).abs().max() / size).nan_to_num(nan=math.inf)))
        rough = torch.is_autocast_enabled(x.device.type) or not want.is_floating_point()
        limit = 0.05 if rough else max(1e-4, 8 * torch.finfo(want.dtype).eps)
    return "" if worst <= limit else f"the outputs of the stack differ by {worst:.1e} of their size"


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


def stacked(
    attack: Attack, names: list[str | int], x: Tensor, target: Any, mask: Tensor | None, sample_ids: Tensor | None
) -> dict[str | int, AttackResult]:
    """The results of one run of the attack on the stack."""
    count, batch = len(names), x.shape[0]

    def spread(value: Any) -> Any:
        """One row for each model beside each sample's."""
        if isinstance(value, Rowwise):
            return value.each(spread)
        per_sample = isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == batch
        return value.repeat_interleave(count, 0) if per_sample else value

    one = copy.copy(attack)
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


def probe(one: Attack, attacks: list[Attack], x: Tensor, target: Any) -> tuple[dict[str, float], str]:
    """Seconds of one step of all models by each way, after one to warm up; why not, where the stack fails."""

    def short(attack: Attack) -> Attack:
        found = copy.copy(attack)
        found.schedule = replace(attack.schedule, steps=1, restarts=1, on_interrupt="raise")
        return found

    ways: dict[str, Callable[[], Any]] = {
        "turns": lambda: [short(a).run(x, target) for a in attacks],
        "stacked": lambda: stacked(short(one), list(range(len(attacks))), x, target, None, None),
    }
    seconds = {}
    try:
        for name, way in ways.items():
            way()
            began = time.perf_counter()
            way()
            if x.device.type == "cuda":
                torch.cuda.synchronize(x.device)
            seconds[name] = time.perf_counter() - began
    except Exception as error:
        return {}, told(error)
    return seconds, ""
