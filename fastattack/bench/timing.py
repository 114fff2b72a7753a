"""Interleaved timing: A B A B in one process, after a judge has passed each way and a warm-up."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from ..ops import BackendUnavailable
from .result import MISSING, Measured, Row
from .trial import Call, Trial, Way, Wrong


@dataclass(frozen=True)
class Pace:
    """How long to measure.

    Args:
        rounds: of A B A B.
        least: seconds that a way runs in one round; quick calls are repeated that often.
        device: "cpu" or "cuda".
        own_time: count this thread's own time instead of the wall clock: what other jobs take away does not count.
            Right for work of one thread on the CPU alone.
    """

    rounds: int = 11
    least: float = 0.01
    device: str = "cpu"
    own_time: bool = False

    @property
    def wall(self) -> Callable[[], float]:
        """The clock of first calls: compilers run in other processes and threads, whose time counts."""
        return _when_done if self.device == "cuda" else time.perf_counter

    @property
    def clock(self) -> Callable[[], float]:
        return time.thread_time if self.own_time and self.device == "cpu" else self.wall


def _when_done() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def reason_of(error: Exception) -> str:
    """Why a way has no time, in one line."""
    if isinstance(error, Wrong):
        return f"wrong: {error}"
    text = " ".join(str(error).split())[:300]
    kind = f"raised {type(error).__name__}"
    if isinstance(error, (ImportError, BackendUnavailable)):
        kind = MISSING
    return f"{kind}: {text}"


def measure(trial: Trial, pace: Pace) -> Row:
    """The row of a trial: every way made, judged, and timed in turn with the floor."""
    calls: dict[str, Call] = {}
    found: dict[str, Measured] = {}
    for way in trial.ways:
        found[way.name], call = judged(way, trial.judge, pace.wall)
        if call is not None:
            calls[way.name] = call
    times = interleaved({"": trial.floor, **calls}, pace)
    floor = tuple(trial.floor_scale * seconds for seconds in times.pop(""))
    for name, seconds in times.items():
        found[name] = replace(found[name], seconds=seconds)
    return Row(
        trial.suite, trial.case, trial.dtype, trial.shape, trial.layout, tuple(found.values()), floor,
        trial.floor_name, trial.bytes, trial.operations,
    )  # fmt: skip


def judged(way: Way, judge: Callable[[Call], float], clock: Callable[[], float]) -> tuple[Measured, Call | None]:
    """What became of a way, and the call that may be timed where it has passed."""
    first = None
    try:
        call = way.make()
        if way.compiles:
            began = clock()
            call()
            first = clock() - began
        off = (way.judge or judge)(call)
    except Exception as error:  # whatever a peer raises: the rest goes on
        return Measured(way.name, way.side, refused=reason_of(error)), None
    return Measured(way.name, way.side, off=off, first=first), call


def interleaved(calls: Mapping[str, Call], pace: Pace) -> dict[str, tuple[float, ...]]:
    """Seconds a call of each, one number a round. The order turns round with every round, so that no way always
    comes after the same other."""
    repeats = {name: repeat_of(call, pace) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    clock, names = pace.clock, list(calls)
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()  # a collection in the middle would be one way's bad luck
    try:
        for number in range(pace.rounds):
            for name in names if number % 2 == 0 else reversed(names):
                call, repeat = calls[name], repeats[name]
                began = clock()
                for _ in range(repeat):
                    call()
                times[name].append((clock() - began) / repeat)
    finally:
        if collecting:
            gc.enable()
    return {name: tuple(seconds) for name, seconds in times.items()}


def repeat_of(call: Call, pace: Pace) -> int:
    """How often a call fits into ``pace.least``; warms up on the way."""
    call()
    repeat = 1
    while True:
        began = pace.clock()
        for _ in range(repeat):
            call()
        spent = pace.clock() - began
        if spent >= pace.least / 4:
            return max(1, round(pace.least / spent * repeat))
        repeat *= 4
