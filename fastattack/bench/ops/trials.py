"""From the cases of the stems to trials: inputs made, ways for each backend, every result judged in float64."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...ops import dispatch
from ..ceilings import stream
from ..trial import Call, Trial, Way, Wrong
from .case import DTYPES, OpCase, Tensors, off_by, outputs, tolerance
from .inputs import tensors

STEMS = (
    "pgd_step",
    "project",
    "preserve_noise",
    "noise_stats",
    "distances",
    "random_start",
    "typical_noise",
    "diffusion_step",
    "momentum_step",
    "accumulate",
    "apgd_step",
    "zero_mean",
    "quantise",
    "l1",
)
SHAPES = ((1, 1, 64, 64), (4, 3, 128, 128), (32, 3, 256, 256), (64, 3, 512, 512))
BACKENDS = {"cpu": ("cpu",), "cuda": ("cuda", "triton", "cupy")}
"""Those that one would use there: the reference is an oracle, Triton's interpreter a debugger."""


def cases_of(shape: tuple[int, ...], only: Sequence[str] = ()) -> list[OpCase]:
    """The cases whose label or stem contains one of ``only``; all of them without."""
    found = []
    for stem in STEMS:
        module = importlib.import_module(f".{stem}", __package__)
        found += [case for case in module.cases(shape) if not only or any(o in case.label or o == stem for o in only)]
    return found


def op_trials(
    *,
    device: str = "cpu",
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    dtypes: Sequence[str] = DTYPES,
    layouts: Sequence[str] = ("contiguous",),
    only: Sequence[str] = (),
    compile: bool = True,
) -> Iterator[Callable[[], Trial]]:
    """One maker a row, called when it is its turn: the inputs of all rows would not fit into memory.

    Args:
        device: "cpu" or "cuda".
        shapes: of the images.
        dtypes: storage types by name; of these a case has those that its op takes.
        layouts: see `inputs.LAYOUTS`.
        only: parts of labels, or stems.
        compile: with the ways of torch.compile, which cost ten seconds and more each.
    """
    for shape in shapes:
        for case in cases_of(shape, only):
            for dtype in (one for one in dtypes if one in case.dtypes):
                for layout in layouts:
                    yield partial(op_trial, case, shape, dtype, layout=layout, device=device, compile=compile)


def op_trial(
    case: OpCase, shape: tuple[int, ...], dtype: str, *, layout: str = "contiguous", device: str = "cpu",
    compile: bool = True,
) -> Trial:  # fmt: skip
    """The trial of one case, with its inputs."""
    subject = Subject(case, tensors(case.names, shape, dtype=getattr(torch, dtype), device=device, layout=layout))
    ways = [*ours(subject, device), *plain(subject)]
    if compile:
        torch.compiler.reset()  # what the row before has compiled
        ways += compiled(subject)
    if device == "cuda":
        ways = with_graphs(ways)
    some = next(iter(subject.x.values()))
    streams = case.streams + (2 * len(case.written) if case.restores else 0)
    moved = round(streams * some.numel() * some.element_size())
    floor = stream(some.numel() * some.element_size(), device)
    return Trial(
        "ops", case.label, dtype, shape, ways, subject.judge, floor.call, floor.name, moved / floor.bytes, layout,
        bytes=moved, operations=case.operations * some.numel(),
    )  # fmt: skip


class Subject:
    """The tensors of a row, their first values, and the judge of what a way makes of them."""

    def __init__(self, case: OpCase, x: Tensors) -> None:
        self.case, self.x = case, x
        self.start = {name: t.clone() for name, t in x.items()}
        self._want: tuple[Tensor, ...] | None = None

    def restore(self) -> None:
        for name, value in self.x.items():
            value.copy_(self.start[name])

    def call(self, function: Callable[..., Any]) -> Call:
        """Runs a function of the case on the tensors, from their first values where the case wants that each time."""
        arguments = [self.x[name] for name in self.case.names]
        if not self.case.restores:
            return lambda: function(*arguments)
        pairs = [(self.x[name], self.start[name]) for name in self.case.written]

        def again() -> Any:
            for value, first in pairs:
                value.copy_(first)
            return function(*arguments)

        return again

    def judge(self, call: Call, *, side: str = "plain") -> float:
        """Runs it once from the first values; see `Trial`."""
        self.restore()
        got = outputs(call(), self.case, self.x)
        if self.case.check is not None:
            limit = self.case.allowed[side] + 4 * torch.finfo(got[0].dtype).eps
            return within(self.case.check(self.start, got), limit)
        want = self.want()
        if len(got) != len(want):
            raise Wrong(f"{len(got)} results, wanted {len(want)}")
        worst, slack = 0.0, 1.0 if side == "ours" else self.case.slack
        for one, exact in zip(got, want, strict=True):
            if one.shape != exact.shape:
                raise Wrong(f"shape {tuple(one.shape)}, wanted {tuple(exact.shape)}")
            worst = max(worst, within(off_by(one, exact), tolerance(one, slack)))
        return worst

    def want(self) -> tuple[Tensor, ...]:
        """The right result, in float64, made a few samples at a time."""
        if self._want is None:
            assert self.case.exact is not None
            parts = []
            for samples in zip(*(torch.split(self.start[name], 4) for name in self.case.names), strict=True):
                value = self.case.exact(*(t.double() for t in samples))
                parts.append((value,) if isinstance(value, Tensor) else value)
            self._want = tuple(torch.cat(part) for part in zip(*parts, strict=True))
        return self._want


def within(off: float, limit: float) -> float:
    """``off``, or Wrong. A NaN is not within anything."""
    if not off <= limit:
        raise Wrong(f"off by {off:.3g}, allowed are {limit:.3g}")
    return off


def ours(subject: Subject, device: str) -> list[Way]:
    """Each backend that runs there, and what "auto" chooses where there is a choice."""
    names = BACKENDS[device]
    judge = partial(subject.judge, side="ours")

    def make(backend: str) -> Call:
        if backend != "auto":
            dispatch.load(backend)  # or the reason why not
        return subject.call(partial(subject.case.ours, backend=backend))

    return [
        Way(name, "ours", partial(make, name), name in ("triton", "cupy"), judge)
        for name in (names if len(names) == 1 else [*names, "auto"])
    ]


def plain(subject: Subject) -> list[Way]:
    return [Way(name, "plain", partial(subject.call, function)) for name, function in subject.case.plain.items()]


def compiled(subject: Subject) -> list[Way]:
    """torch.compile with the shapes fixed, its strongest form."""

    def make(function: Callable[..., Any]) -> Call:
        return subject.call(torch.compile(lambda *arguments: function(*arguments), dynamic=False))

    return [Way(name, "plain", partial(make, function), True) for name, function in subject.case.compiled.items()]


def with_graphs(ways: Sequence[Way]) -> list[Way]:
    """Each way, and the same as a CUDA graph: that is compiled before its first replay."""
    graphs = [replace(way, name=f"{way.name}, graph", make=partial(captured, way.make), compiles=False) for way in ways]
    return [one for pair in zip(ways, graphs, strict=True) for one in pair]


def captured(make: Callable[[], Call]) -> Call:
    """A CUDA graph of a call, whose replays write the same result."""
    call, side = make(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = call()

    def replay() -> Any:
        graph.replay()
        return value

    return replay
