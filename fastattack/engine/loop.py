"""The loop of every attack: what it is given, checked, and the batch cut into what the memory holds."""

from __future__ import annotations

import math
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..fast import Speed
from ..guard import fresh, left_as_found, rows_of
from ..inputs import (
    check_data,
    check_grid,
    check_input,
    check_start,
    check_target,
    clean_of,
    dense,
    misfit,
    out_of_memory,
    told,
)
from ..objectives import Objective
from ..objectives.perceptual import remembering
from ..ops import check
from ..ops.backend import Backend
from ..ops.dispatch import resolve
from ..threat import Threat, share_of
from .combine import PLAIN, members, source_of
from .job import Job
from .restarts import Report, run
from .schedule import NonFiniteError, Outcome, Schedule
from .source import Model, Models, Source, View
from .walk import Rule, Steepest


def _raise_if_bad(bad: Tensor, first: int, how: str) -> None:
    steps = bad.tolist()  # the one wait
    samples = [i for i, step in enumerate(steps) if step >= 0]
    if samples:
        worst = min(samples, key=lambda i: steps[i])
        also = f", and {len(samples) - 1} more samples" if len(samples) > 1 else ""
        hint = "; fp16 ends at 65504, precision='bf16' or 'fp32' does not" if "fp16" in how else ""
        raise NonFiniteError(
            f"model or objective: NaN or infinity at step {steps[worst]} for sample {first + worst}{also}{hint}"
        )


def attack(
    model: Models,
    origin: Tensor,
    target: Any,
    *,
    objective: Objective,
    threat: Threat,
    schedule: Schedule,
    rule: Rule = Steepest,
    ensemble: str | Sequence[float] = "mean",
    view: View | None = None,
    smooth: Tensor | None = None,
    wrap: Callable[[Source, Backend], Source] | None = None,
    mask: Tensor | None = None,
    sample_ids: Tensor | None = None,
    start: Tensor | None = None,
    clean: Tensor | None = None,
    progress: Report = None,
    speed: Speed = PLAIN,
    with_loss: bool = True,
) -> Outcome:
    """Run the loop.

    Args:
        model: called as model(x) on a batch; an nn.Module or any callable; a sequence or mapping of several.
        origin: (B, ...) float, the input to attack.
        target: what the objective compares with; a tensor with B rows, or a `Rowwise` of such, is cut into
            micro-batches, anything else passes.
        rule: how the iterate moves, see `Walk`.
        ensemble: how the losses of several models become one, see `Ensemble`, or a weight for each.
        view: a random transformation through which the model sees the input, see `View`.
        smooth: (k, k) kernel that the gradients are convolved with.
        wrap: makes another source of the one that model, view and smooth make.
        mask: broadcastable to origin, 0 keeps the pixel.
        sample_ids: (B,) integers that name the samples for the random start; 0 .. B-1 by default.
        start: like origin, where the first restart begins, once it is projected onto the threat; later ones at random.
        clean: the clean images that threat.preserve_noise needs; None means the target.
        speed: how gradients are made, see `Speed`.
        with_loss: False leaves out the forward pass that judges the last iterate where keep="last" returns it anyway
            (one restart); the loss is NaN then.

    Raises:
        TypeError, ValueError: input, model or objective do not fit (where torch failed, and parameters and input
            differ in device or type, both are named). NonFiniteError: NaN or infinity on the way.
        MemoryError: one sample, or max_batch of them, did not fit.
    """
    began = time.perf_counter()
    check_input(origin, threat.bounds)
    check_data(members(model), origin, target)
    known = clean_of(clean, target, origin, mask, threat)
    if threat.zero_mean and mask is not None:
        raise ValueError("mask: wanted None with zero_mean=True (the mean is that of every pixel)")
    check_target(target)
    batch = origin.shape[0]
    table = resolve(origin.device, schedule.backend)
    radius = _radius(threat, schedule)
    eps = check.per_sample(radius, "eps", origin, least=0.0, down=threat.norm == "linf")
    default = eps * (2.5 / schedule.steps)
    step = check.per_sample(default if schedule.step is None else schedule.step, "step", origin)
    step = -step if schedule.minimise else step
    share = share_of(threat, origin)
    where = check.mask_of(mask, origin)
    given = check.ids_of(sample_ids, origin)
    ids = torch.arange(batch, device=origin.device) if given is None else given
    check_start(start, origin)
    bounds = check.bounds_of(threat.bounds, origin.dtype)
    check_grid(origin, threat)
    kind = rule.func if isinstance(rule, partial) else rule
    exact = schedule.stop == "success" or getattr(kind, "tells_success", False)
    source = source_of(model, table, schedule, ensemble=ensemble, view=view, smooth=smooth, speed=speed, exact=exact)
    source = source if wrap is None else wrap(source, table)

    def job_of(rows: slice) -> Job:
        return Job(
            source, objective, schedule, threat, own[rows], rows_of(goal, rows, batch), rows_of(known, rows, batch),
            rows_of(where, rows, batch), rows_of(eps, rows, batch), rows_of(step, rows, batch),
            rows_of(share, rows, batch), bounds, table, ids[rows],
            judged=with_loss or schedule.keep == "best" or schedule.restarts > 1,
            begin=rows_of(begin, rows, batch),
        )  # fmt: skip

    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(remembering())
        for one in source.models:
            stack.enter_context(left_as_found(one, origin.device, eval_mode=schedule.eval_mode))
        own = dense(fresh(origin))
        goal = fresh(target) if isinstance(target, Tensor) else target
        known = None if known is None else dense(fresh(known))
        begin = None if start is None else fresh(start)
        stack.enter_context(_told(source.models, origin, target))
        jobs, complete = _in_parts(job_of, batch, rule, schedule, progress)

    def whole(name: str) -> Tensor:
        parts = [getattr(job, name) for job in jobs]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    return Outcome(
        whole("best"), whole("best_loss"), whole("best_step"), whole("best_restart"), whole("used"),
        time.perf_counter() - began, complete, source.how,
    )  # fmt: skip


@contextmanager
def _told(models: Sequence[Model], origin: Tensor, target: Any) -> Iterator[None]:
    """torch's errors about devices and types name neither model nor input."""
    try:
        yield
    except RuntimeError as error:
        reason = misfit(models, origin, target)
        if not reason:
            raise
        raise ValueError(f"{reason} ({told(error)})") from error


def _radius(threat: Threat, schedule: Schedule) -> float | Tensor:
    if threat.eps is not None:
        return threat.eps
    if schedule.step is None:
        raise ValueError("step: wanted a length where there is no ball (eps=None), got None")
    if schedule.random_start:
        raise ValueError("random_start: wanted False where there is no ball (eps=None), got True")
    return math.inf


def _in_parts(
    job_of: Callable[[slice], Job], batch: int, rule: Rule, schedule: Schedule, progress: Report
) -> tuple[list[Job], bool]:
    """Every micro-batch in order, halved where the memory does not suffice; (jobs, whether all of them ended)."""
    size, jobs, complete = schedule.max_batch or batch, [], True
    waiting = deque(slice(first, min(first + size, batch)) for first in range(0, batch, size))
    while waiting:
        rows = waiting.popleft()
        job: Job | None = None
        try:
            job = job_of(rows)
            if complete:
                run(job, rule, progress, rows.start)
                _raise_if_bad(job.bad, rows.start, job.source.how)
        except KeyboardInterrupt:
            if schedule.on_interrupt == "raise":
                raise
            complete = False
            if job is not None:
                _raise_if_bad(job.bad, rows.start, job.source.how)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            waiting.extendleft(reversed(_halves(rows, schedule, error)))
            continue
        jobs.append(job_of(rows) if job is None else job)
    return jobs, complete


def _halves(rows: slice, schedule: Schedule, error: RuntimeError) -> list[slice]:
    """Two slices for one that did not fit. No number changes: every draw is keyed by the sample."""
    count = rows.stop - rows.start
    if count == 1 or schedule.max_batch is not None:
        hint = "a smaller image or model" if count == 1 else f"max_batch={count // 2}"
        raise MemoryError(f"max_batch: {count} samples at a time do not fit in memory; try {hint}") from error
    middle = rows.start + (count + 1) // 2
    warnings.warn(
        f"{count} samples at a time do not fit in memory: going on with {middle - rows.start} "
        f"(max_batch={middle - rows.start} says so from the start)",
        stacklevel=4,
    )
    return [slice(rows.start, middle), slice(middle, rows.stop)]
