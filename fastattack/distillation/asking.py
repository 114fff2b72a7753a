"""What is asked of a target: the plan, as much of it as the budget allows, and what the answers are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..objectives import Objective
from ..ops import check
from ..training.config import require_whole
from ..training.identity import checksum
from .answers import KINDS, check_classes, kind_of, loss_for
from .cached import Cached, Query, QueryError
from .learning import Answered, Watch
from .queries import (
    Augment,
    Bounds,
    Generate,
    Plan,
    check_bounds,
    check_images,
    check_labels,
    held_out_of,
    plan_queries,
)

HeldOut = float | Tensor | tuple[Tensor, Tensor]


def collect(
    query: Query,
    inputs: Tensor,
    *,
    budget: int,
    labels: Tensor | None = None,
    held_out: HeldOut = 0.1,
    answers: str = "auto",
    loss: str | Objective = "l1",
    augment: Augment | None = None,
    generated: Generate | None = None,
    bounds: Bounds = None,
    seed: int = 0,
    cache: str | Path | None = None,
    query_batch: int | None = None,
    retries: int = 2,
    source: str | None = None,
    progress: Watch | None = None,
    before: Callable[[Plan], object] | None = None,
    first: Callable[[Answered], object] | None = None,
) -> Answered:
    """The first half of `distill`: asks the target, and trains nothing. Arguments and errors as there.

    ``before`` is called with the plan before anything is asked, ``first`` with the first batch of answers: what either
    raises ends the asking.

    ``loss`` is only looked at: after the first batch of answers it must be one that they suffice for.
    """
    require_whole(budget, "budget", 1)
    if answers not in (*KINDS, "auto"):
        raise ValueError(f"answers: wanted one of {', '.join(map(repr, (*KINDS, 'auto')))}, got {answers!r}")
    loss_for(loss, "logits" if answers == "auto" else answers)  # before anything is paid
    check.seed_of(seed)
    check_bounds(bounds)
    inputs = check_images(inputs, "inputs")
    known = check_labels(labels, len(inputs), "labels")
    plan = plan_queries(
        inputs, known, budget=budget, held_out=held_out_of(held_out, inputs),
        augment=augment, generated=generated, bounds=bounds, seed=seed,
    )  # fmt: skip
    asked = query
    if not isinstance(asked, Cached):
        asked = Cached(query, cache, batch=query_batch, retries=retries, source=source)
    elif cache is not None or query_batch is not None or source is not None:
        raise ValueError(
            "cache: wanted none beside a query that is a Cached, which has its own folder, batch and source"
        )
    if before is not None:
        before(plan)

    def look(found: Answered) -> None:
        loss_for(loss, found.kind)
        if found.kind in ("logits", "probabilities"):
            check_classes(known, found.answers, "labels")
            check_classes(plan.labels, found.answers, "labels")
        if first is not None:
            first(found)

    return _ask(asked, plan, budget, answers, look, progress)


def _ask(
    query: Cached,
    plan: Plan,
    budget: int,
    wanted: str,
    look: Callable[[Answered], object],
    progress: Watch | None,
) -> Answered:
    """Answers to as much of the plan as the budget allows."""
    before, limit, parts, first = (query.queries, query.hits), query.limit, list[Tensor](), 0
    query.limit = query.queries + budget if limit is None else min(limit, query.queries + budget)
    try:
        for first in (0, query.batch):  # what cannot be learnt is told before all are paid
            asked = plan.images[first : None if first else query.batch]
            found = query.ask(asked, _teller(progress, first, len(plan.images))) if len(asked) else torch.empty(0)
            parts += [found] if len(found) else []
            if len(found) < query.batch:
                break
            if not first:
                kind, held = kind_of(found, asked, wanted), min(plan.held, len(found))
                labels = None if plan.labels is None else plan.labels[:held]
                look(Answered(asked, found, kind, held, labels))
    except QueryError as error:
        rows = [first + row for row in error.rows]
        names = ", ".join(plan.names[row] for row in rows[:5]) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")
        raise QueryError(rows, error.reason, names) from error
    finally:
        query.limit = limit
    found = torch.cat(parts) if parts else torch.empty(0)
    if len(found) <= plan.held:
        raise ValueError(f"budget: {budget} images were asked, and none to learn from was answered{query.trouble}")
    images = plan.images[: len(found)]
    kind = kind_of(found, images, wanted)
    answered = Answered(
        images, found, kind, plan.held, plan.labels, query.queries - before[0], query.hits - before[1],
        checksum(plan.images),
    )  # fmt: skip
    look(answered)
    return answered


def _teller(progress: Watch | None, before: int, planned: int) -> Callable[[int], object] | None:
    return None if progress is None else lambda count: progress({"answered": before + count, "planned": planned})
