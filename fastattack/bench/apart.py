"""Trials with each way in a process of its own, as a user has it: tells the peak of memory. On the CPU.

`python -m fastattack.bench.apart [NAME ...]`. In one process the plain loops gain from what ours leaves in glibc's
heap, and a peak cannot be told from another's.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..files import write_atomic
from .attacks import FULL, NAMES, attack_trials
from .judge import EXACT, Run
from .result import Measured, Row
from .timing import Pace, judged
from .trial import Call, Trial, Way

FLOOR = "floor"


@dataclass(frozen=True)
class Answer:
    """Of a process: seconds of a run, what it gave, MB at the peak so far, and the tolerance of the way."""

    seconds: float
    array: Any
    peak: int
    tolerance: float


@dataclass(frozen=True)
class Failure:
    """What a process raised: errors themselves cannot always be sent."""

    kind: str
    text: str
    missing: bool

    def error(self) -> Exception:
        """One that reads like it."""
        return ImportError(self.text) if self.missing else type(self.kind, (Exception,), {})(self.text)


@dataclass(frozen=True)
class Recipe:
    """How a process makes a trial again. See `attack_trials`.

    Args:
        name: of the trial.
        threads: of torch.
    """

    name: str
    quick: bool = False
    shared: Path | None = None
    steps: int = 10
    compile: bool = False
    threads: int = 1

    def trial(self) -> Trial:
        if self.name not in NAMES:
            raise ValueError(f"name: wanted one of {', '.join(NAMES)}, got {self.name!r}")
        make = next(
            attack_trials(
                device="cpu", quick=self.quick, shared=self.shared, only=[self.name], steps=self.steps,
                compile=self.compile,
            )
        )  # fmt: skip
        return make()


def apart(recipe: Recipe, *, rounds: int = 5, ways: Collection[str] = ()) -> tuple[Row, dict[str, int]]:
    """The row of a trial whose ways ran in processes of their own in turn, and each one's peak of memory in MB.

    Every way is judged by its first result, which does not count; its second run is the first that is timed.

    Args:
        ways: names of those that are measured; () means all.

    Raises:
        ValueError, OSError: what `attack_trials` says of the recipe.
    """
    trial = recipe.trial()
    chosen = [way for way in trial.ways if not ways or way.name in ways]
    with workers(recipe, [way.name for way in chosen]) as ask:
        found = {way.name: judged_apart(way, ask[way.name], trial) for way in chosen}
        answer(ask[FLOOR])  # warms up, as the judge's call did for the others
        timed = [FLOOR, *(name for name, one in found.items() if one.refused is None)]
        times: dict[str, list[float]] = {name: [] for name in timed}
        peaks: dict[str, int] = {}
        for number in range(rounds):
            for name in timed if number % 2 == 0 else reversed(timed):
                one = answer(ask[name])
                times[name].append(one.seconds)
                peaks[name] = one.peak
    floor = tuple(times.pop(FLOOR))
    rows = tuple(replace(one, seconds=tuple(times.get(name, ()))) for name, one in found.items())
    row = Row(
        trial.suite, trial.case, trial.dtype, trial.shape, trial.layout, rows, floor, trial.floor_name, trial.bytes,
        trial.operations,
    )  # fmt: skip
    return row, {name: peak for name, peak in peaks.items() if name != FLOOR}


def judged_apart(way: Way, pipe: Any, trial: Trial) -> Measured:
    """What became of a way in its process, without times."""
    first = 0.0

    def make() -> Call:
        nonlocal first
        one = answer(pipe)
        first = one.seconds
        return Run(lambda: torch.from_numpy(one.array), one.tolerance)

    made = judged(Way(way.name, way.side, make), trial.judge, time.perf_counter)
    return made if isinstance(made, Measured) else replace(made[0], first=first if way.compiles else None)


def answer(pipe: Any) -> Answer:
    """Another run.

    Raises:
        Exception: what it raised there; EOFError where the process has died.
    """
    pipe.send(True)
    found = pipe.recv()
    if isinstance(found, Failure):
        raise found.error()
    assert isinstance(found, Answer)
    return found


@contextmanager
def workers(recipe: Recipe, names: list[str]) -> Iterator[dict[str, Any]]:
    """The pipe to the process of each way, and of the floor. All are ended on the way out."""
    context, pipes, processes = multiprocessing.get_context("spawn"), {}, []
    try:
        for name in [FLOOR, *names]:
            pipes[name], end = context.Pipe()
            processes.append(context.Process(target=work, args=(end, recipe, name), daemon=True))
            processes[-1].start()
            end.close()  # so that a process that dies ends the waiting
        yield pipes
    finally:
        for pipe in pipes.values():
            with suppress(OSError):  # of a process that has died
                pipe.send(False)
        for process in processes:
            process.join(timeout=10)
            process.terminate()


def work(pipe: Any, recipe: Recipe, name: str) -> None:
    """One way in this process: runs at each message, answers with what came of it. It makes no other way and imports no
    other's packages."""
    torch.set_num_threads(recipe.threads)
    clock, call = Pace(own_time=recipe.threads == 1).clock, None
    while pipe.recv():
        try:
            call = call or _call(recipe.trial(), name)
            began = clock()
            found = call()
            seconds = clock() - began
            array = None if found is None else found.contiguous().numpy()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            pipe.send(Answer(seconds, array, peak, getattr(call, "tolerance", EXACT)))
        except Exception as error:
            pipe.send(Failure(type(error).__name__, str(error), isinstance(error, ImportError)))


def _call(trial: Trial, name: str) -> Call:
    return trial.floor if name == FLOOR else next(way for way in trial.ways if way.name == name).make()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fastattack.bench.apart", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all but the first by default")
    parser.add_argument("--threads", type=int, default=1, help="1: times are each process's own")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small inputs and few steps")
    parser.add_argument("--compile", action="store_true", help="the ways through torch.compile too")
    parser.add_argument("--shared", type=Path, help="folder with published weights and data; random ones without it")
    parser.add_argument("--out", type=Path, help="a JSON of rows and peaks")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for name in options.names or FULL:
        recipe = Recipe(name, options.quick, options.shared, options.steps, options.compile, options.threads)
        try:
            row, peaks = apart(recipe, rounds=options.rounds)
        except (ValueError, OSError) as error:
            sys.exit(str(error))
        print_row(row, peaks)
        rows.append({"row": asdict(row), "peak_mb": peaks})
        if options.out is not None:
            write_atomic(options.out, (json.dumps(rows, indent=1) + "\n").encode())


def print_row(row: Row, peaks: dict[str, int]) -> None:
    print(f"\n{row.case} {'x'.join(map(str, row.shape))}", flush=True)
    for way in row.ways:
        if way.refused is None:
            print(f"  {way.name:<20} {way.median:8.3f} s  {row.share(way):5.2f} of the passes  {peaks[way.name]:5d} MB")
        else:
            print(f"  {way.name:<20} no time: {way.refused}")


if __name__ == "__main__":
    main()
