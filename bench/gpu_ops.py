"""The ops on a GPU: every backend beside plain PyTorch, each also as a CUDA graph: `python -m bench.gpu_ops`.

All ways of an op run in one process, interleaved A B A B, medians, with a copy and a fill of one number (an empty
launch) in the same rounds as the ceilings. A way counts only if it gives the float64 result; what is wrong, raises or
cannot be captured is listed with its reason. The file is written after each row: an end in the middle keeps them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import plain
from bench.common import EPS, STEP, Inputs
from fastattack import ops

SIZES = {"64x3x512x512": (64, 3, 512, 512), "1x1x64x64": (1, 1, 64, 64)}
BACKENDS = ("triton", "cuda", "cupy")
ROUNDS = 7
Way = Callable[[], Any]


@dataclass(frozen=True)
class Op:
    """``plain``: what torch users write; ``compiled``: the form that torch.compile does best."""

    name: str
    streams: int
    ours: Callable[[Inputs, str], Any]
    plain: dict[str, Callable[[Inputs], Any]]
    compiled: Callable[..., Any]
    arguments: Callable[[Inputs], tuple[Any, ...]]
    tolerance: float


def step(norm: str, eps: float, length: float, streams: int, compiled: Callable[..., Any]) -> Op:
    out, in_place = (plain.linf, plain.linf_) if norm == "linf" else (plain.l2, plain.l2_)
    arguments = lambda x: (x.adv, x.grad, x.origin, eps, length)  # noqa: E731
    return Op(
        f"pgd_step_ {norm}", streams,
        lambda x, backend: ops.pgd_step_(
            x.adv, x.grad, x.origin, norm=norm, eps=eps, step=length, backend=backend
        ),
        {"eager": lambda x: out(*arguments(x)), "eager in place": lambda x: in_place(*arguments(x))},
        compiled, arguments, 1e-6,
    )  # fmt: skip


OPS = [
    step("linf", EPS, STEP, 4, plain.linf_copy),
    step("l2", 1.0, 0.2, 7, plain.l2_one_reduction),
    Op("noise_stats", 1, lambda x, backend: tuple(ops.noise_stats(x.grad, sigma=1e-4, backend=backend)),
       {"eager": lambda x: plain.stats(x.grad, 1e-4)}, plain.stats, lambda x: (x.grad, 1e-4), 1e-3),
    Op("distances", 2, lambda x, backend: tuple(ops.distances(x.adv, x.clean, backend=backend)),
       {"eager": lambda x: plain.distances(x.adv, x.clean)}, plain.distances, lambda x: (x.adv, x.clean), 1e-4),
]  # fmt: skip
WANTED = {
    "pgd_step_ linf": plain.linf,
    "pgd_step_ l2": plain.l2,
    "noise_stats": plain.stats,
    "distances": plain.distances,
}


def inputs(shape: tuple[int, ...], device: str) -> Inputs:
    g = torch.Generator(device).manual_seed(0)
    draw = partial(torch.randn, shape, generator=g, device=device)
    clean = torch.rand(shape, generator=g, device=device)
    origin = clean + 0.1 * draw()
    return Inputs(origin + 0.01 * draw(), 1e-4 * draw(), origin, clean)


def first(value: Any) -> Tensor:
    """The first sample of a result, in float64."""
    if isinstance(value, Tensor):
        return value[:1].double()
    return torch.stack(list(value))[:, :1].double()


class Trial:
    """The ways of one op on one set of inputs, each judged before it is kept."""

    def __init__(self, op: Op, x: Inputs) -> None:
        self.op, self.x = op, x
        self.start, self.grad = x.adv.clone(), x.grad.clone()
        exact = [a[:1].double() if isinstance(a, Tensor) else a for a in op.arguments(x)]
        self.want = first(WANTED[op.name](*exact))
        self.ways: dict[str, Way] = {}
        self.refused: dict[str, str] = {}

    def add(self, name: str, way: Way, *, graph: bool) -> None:
        """The way, and the same as a CUDA graph."""
        try:
            self.judge(way)
            self.ways[name] = way
            if graph:
                name += ", graph"
                replay = captured(way)
                self.judge(replay)
                self.ways[name] = replay
        except Exception as error:  # the rest goes on
            self.refused[name] = f"{type(error).__name__}: {error}".splitlines()[0]

    def judge(self, way: Way) -> None:
        self.x.adv.copy_(self.start)
        self.x.grad.copy_(self.grad)  # plain loops take its sign in place
        value = way()
        got = first(self.x.adv if value is None else value)
        if not torch.allclose(got, self.want, rtol=self.op.tolerance, atol=1e-6):
            raise ValueError(f"wrong: off by {(got - self.want).abs().max().item():.3g}")


def captured(way: Way) -> Way:
    """A CUDA graph of it, whose replays write the same result."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        way()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = way()

    def replay() -> Any:
        graph.replay()
        return value

    return replay


def seconds(way: Way, repeat: int, device: str) -> float:
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    wait()
    began = time.perf_counter()
    for _ in range(repeat):
        way()
    wait()
    return (time.perf_counter() - began) / repeat


def row(
    op: Op, shape: tuple[int, ...], backends: Sequence[str], device: str, repeat: int, *, compile: bool
) -> dict[str, Any]:
    """Medians of one op's ways, and of the ceilings."""
    x, graph = inputs(shape, device), device == "cuda"
    trial = Trial(op, x)
    for backend in backends:
        trial.add(backend, lambda b=backend: op.ours(x, b), graph=graph)
    for name, function in op.plain.items():
        trial.add(name, lambda f=function: f(x), graph=graph)
    if compile:
        torch.compiler.reset()
        fast = torch.compile(op.compiled, dynamic=False)
        trial.add("compiled", lambda: fast(*op.arguments(x)), graph=graph)
    target, one = torch.empty_like(x.adv), torch.empty(1, device=device)
    ways = {"copy": lambda: target.copy_(x.origin), "launch": one.zero_, **trial.ways}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        seconds(way, max(1, repeat // 10), device)
    for _ in range(ROUNDS):
        for name, way in ways.items():
            times[name].append(seconds(way, repeat, device))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "op": op.name, "shape": shape, "bytes": op.streams * x.bytes_each, "streams": op.streams,
        "seconds": medians, "refused": trial.refused,
    }  # fmt: skip


def print_row(found: dict[str, Any]) -> None:
    """With the share of the bandwidth that the copy (two streams) had."""
    times, streams = found["seconds"], found["streams"]
    print(f"\n{found['op']} {'x'.join(map(str, found['shape']))}: {found['bytes'] / 1e6:.3g} MB must move", flush=True)
    for name, spent in times.items():
        share = "" if name in ("copy", "launch") else f"  {times['copy'] * streams / 2 / spent:5.2f} of the copy"
        print(f"  {name:<24} {spent * 1e6:10.2f} us{share}")
    for name, reason in found["refused"].items():
        print(f"  {name:<24} no time: {reason}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out") / "gpu_ops.json")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("torch sees no GPU here")
    rows: list[dict[str, Any]] = []
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for size, shape in SIZES.items():
        for op in OPS:
            rows.append(row(op, shape, BACKENDS, "cuda", 10 if size.startswith("64") else 300, compile=True))
            print_row(rows[-1])
            options.out.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1))
    if any(way.split(",")[0] in BACKENDS for found in rows for way in found["refused"]):
        sys.exit("a way of ours is wrong, raises or cannot be captured")


if __name__ == "__main__":
    main()
