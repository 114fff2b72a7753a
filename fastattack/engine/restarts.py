"""One micro-batch through all its restarts: look, remember, learn, move."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .job import Job
from .schedule import Progress
from .walk import Rule, Walk

Report = Callable[[Progress], None] | None


def run(job: Job, rule: Rule, progress: Report, first: int) -> None:
    """All restarts of a job; ``first`` is the number of its first sample. What was found is in the job."""
    walk = rule(job)
    if job.begin is not None and not walk.free_start:
        raise ValueError("start: wanted None for an attack that chooses where it begins, got a tensor")
    for restart in range(job.schedule.restarts):
        try:
            job.fresh_start()
            walk.taken = 0
            walk.start(restart)
            _restart(job, walk, restart, progress, first)
            if job.schedule.stop is not None:  # samples that ended early have not been judged yet
                _settle(job, walk, restart)
        except KeyboardInterrupt:
            if job.schedule.on_interrupt == "return":
                _rescue(job, walk, restart)
            raise


def _exact(job: Job, walk: Walk) -> bool:
    """Every iterate is judged by the model as it is: a success in reduced precision, or in other noise, is none."""
    return job.source.redraws or (job.source.reduced and (walk.tells_success or job.schedule.stop == "success"))


def _settle(job: Job, walk: Walk, restart: int) -> None:
    """The best so far, judged by the model as it is, where that has not been done."""
    if job.source.reduced and job.schedule.keep == "best" and not _exact(job, walk):
        exact = job.value(job.best, job.schedule.steps, restart)
        job.settle(exact, walk.score(job.best, exact))


def _rescue(job: Job, walk: Walk, restart: int) -> None:
    """What an interrupt leaves: the best so far, or with keep="last" the iterate that the first restart reached."""
    if job.schedule.keep == "best":
        _settle(job, walk, restart)
    elif restart == 0:
        job.project(walk.adv)  # the interrupt may have come between a step and its projection
        job.keep_noise(walk.adv)
        job.best.copy_(walk.point(job.schedule.steps))
        job.best_step.fill_(walk.taken)
        if job.judged:
            job.best_loss = job.value(job.best, walk.taken, restart).double()


def _restart(job: Job, walk: Walk, restart: int, progress: Report, first: int) -> None:
    """One restart. Samples that have finished leave the batch; whatever happens, what was found comes back to job."""
    schedule = job.schedule
    cuts: list[tuple[Job, Walk, Tensor]] = []
    try:
        for step in range(schedule.steps):
            if schedule.stop is not None and step % schedule.patience == 0:
                index = _going_on(job)
                if index is not None:
                    if index.numel() == 0:
                        return
                    part = job.rows(index)
                    rest = walk.rows(index, part)
                    cuts.append((job, walk, index))
                    job, walk = part, rest
            _step(job, walk, step, restart, progress, first)
        if not walk.last_look:
            return
        x = walk.point(schedule.steps)
        if not job.judged:
            job.best.copy_(x)
            job.best_step.fill_(schedule.steps)
            return
        _settle(job, walk, restart)
        loss = job.value(x, schedule.steps, restart)
        job.watch(schedule.steps, loss, None)
        job.take(x, loss, walk.score(x, loss), schedule.steps, restart, always=schedule.keep == "last")
    finally:
        for whole, whole_walk, index in reversed(cuts):
            whole.adopt(job, index)
            whole_walk.adopt(walk, index)
            job, walk = whole, whole_walk


def _step(job: Job, walk: Walk, step: int, restart: int, progress: Report, first: int) -> None:
    job.count()
    x = walk.point(step)
    loss, grad = job.gradient(x, step, restart) if walk.needs_gradient else (job.value(x, step, restart), None)
    job.watch(step, loss, grad)
    exact = grad is not None and _exact(job, walk)
    if job.schedule.keep == "best" and not walk.judges:
        judged = loss if grad is None or (job.source.faithful and not exact) else job.value(x, step, restart)
        loss = judged if exact else loss
        job.take(x, judged, walk.score(x, judged), step, restart)
    if progress is not None:
        progress(Progress(step, job.schedule.steps, restart, first, loss))
    walk.learn(step, loss, grad)
    walk.taken = step + 1


def _going_on(job: Job) -> Tensor | None:
    """Rows that need more steps, where few enough are left to make a smaller batch worth it; else None. Waits."""
    going = (~job.finished()).nonzero()[:, 0]
    return going if going.numel() <= job.batch // 2 else None
