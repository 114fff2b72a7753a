"""From models to a source: one, several, seen through views; and their losses without an attack."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..fast import Prepared, Speed
from ..guard import fresh, left_as_found
from ..objectives import Objective
from ..ops.backend import Backend
from ..ops.dispatch import resolve
from .ensemble import Ensemble
from .naming import draws_by_name
from .part import Beside, Part
from .schedule import Schedule
from .source import Models, Moment, Single, Source, View
from .viewed import Smoothed, Viewed

PLAIN = Speed()


def members(model: Models) -> list[Any]:
    """The models of an ensemble in order; a model alone is one."""
    if isinstance(model, (Mapping, nn.ModuleDict)):
        return list(model.values())
    if isinstance(model, (Sequence, nn.ModuleList)):
        return list(model)
    return [model]


def _only_plain(speed: Speed, what: str) -> None:
    for name, plain in (("precision", "fp32"), ("compile", False), ("graph", "never"), ("chunk", None)):
        if getattr(speed, name) != plain and not (name == "graph" and speed.graph == "auto"):
            raise ValueError(f"{name}: wanted {plain!r} {what}, got {getattr(speed, name)!r}")
    if speed.channels_last:
        raise ValueError(f"channels_last: wanted None or False {what}, got True")


def source_of(
    model: Models,
    table: Backend,
    schedule: Schedule,
    *,
    ensemble: str | Sequence[float] = "mean",
    view: View | None = None,
    smooth: Tensor | None = None,
    speed: Speed = PLAIN,
    exact: bool = False,
) -> Source:
    """The models, their combination, and the views through which they are seen.

    ``exact``: every iterate will be judged by the models as they are.
    """
    models = members(model)
    if len(models) > 1 and ensemble == "logits":  # one graph through all of them
        _only_plain(speed, "with ensemble='logits'")
        singles: list[Source] = [Single(m) for m in models]
    else:
        once = schedule.steps * schedule.restarts * schedule.eot == 1
        options = {"eval_mode": schedule.eval_mode, "once": once, "exact": exact}

        def single(one: Any) -> Source:
            if isinstance(one, Part):
                return Beside(single(one.model), one)
            if draws_by_name(one):
                _only_plain(speed, "for a model behind a defence, or another that draws by name, which runs as it is")
                return Single(one)
            return Single(one, fast=Prepared(one, speed, **options))

        singles = [single(m) for m in models]
    source = singles[0]
    if len(singles) > 1:
        how, weights = (ensemble, None) if isinstance(ensemble, str) else ("mean", ensemble)
        source = Ensemble(singles, how, weights, table)
    if view is not None or schedule.eot > 1:
        source = Viewed(source, view, schedule.eot, table, seed=schedule.seed)
    return source if smooth is None else Smoothed(source, smooth)


def losses(
    model: Models,
    batches: Iterable[tuple[Tensor, Any]],
    *,
    objective: Objective,
    schedule: Schedule,
    ensemble: str | Sequence[float] = "mean",
    draw: int = 0,
) -> Tensor:
    """The loss (N,) of each sample, float64, by the models as they are; no gradient, and no random view.

    ``draw``: which noise a model has that draws by name; with ``schedule.eot`` > 1 it is the mean over so many.
    """
    found: list[Tensor] = []
    count = 0
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        source: Source | None = None
        for x, target in batches:
            if source is None:
                source = source_of(model, resolve(x.device, schedule.backend), schedule, ensemble=ensemble)
                for one in source.models:
                    stack.enter_context(left_as_found(one, x.device, eval_mode=schedule.eval_mode))
            moment = Moment(schedule.seed, schedule.steps, torch.arange(count, count + len(x), device=x.device), draw)
            found.append(source.value(fresh(x), target, objective, moment).double())
            count += len(x)
    return torch.cat(found)
