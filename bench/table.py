"""The table of the README: `python -m bench.table`. All sides in one process, interleaved A B A B, medians.

Each way is checked against float64 before it is timed; the ceiling (a triad over the same four streams) is measured in
the same rounds. Run it on a quiet machine.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from bench import plain
from bench.common import EPS, STEP, Inputs, check_noise, inputs
from fastattack import _cpu, ops

ROUNDS = 11


def clock(function: Callable[[], object], repeat: int) -> float:
    began = time.perf_counter()
    for _ in range(repeat):
        function()
    return (time.perf_counter() - began) / repeat


def interleaved(ways: dict[str, Callable[[], object]], repeat: int) -> dict[str, float]:
    """Median seconds of each way."""
    for function in ways.values():
        clock(function, max(1, repeat // 10))
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, function in ways.items():
            times[name].append(clock(function, repeat))
    return {name: statistics.median(values) for name, values in times.items()}


def step_ways(x: Inputs, norm: str) -> dict[str, Callable[[], object]]:
    """The ways to take a step; every way writes (or returns) the same numbers."""
    eps, step = (EPS, STEP) if norm == "linf" else (1.0, 0.2)
    out, in_place, copy = (
        (plain.linf, plain.linf_, plain.linf_copy) if norm == "linf" else (plain.l2, plain.l2_, plain.l2_copy)
    )
    arguments = (x.adv, x.grad, x.origin, eps, step)
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: ops.pgd_step_(x.adv, x.grad, x.origin, norm=norm, eps=eps, step=step),
        "eager": lambda: out(*arguments),
        "eager in place": lambda: in_place(*arguments),
    }
    candidates = {"compiled": out, "compiled in place": copy}
    if norm == "l2":
        candidates["compiled in place, one reduction"] = plain.l2_one_reduction
    for name, function in candidates.items():
        fast = torch.compile(function, dynamic=False)
        ways[name] = lambda fast=fast: fast(*arguments)  # type: ignore[misc]
    start = x.adv.clone()
    want = out(*(t[:1].double() for t in (x.adv, x.grad, x.origin)), eps, step)
    grad = x.grad.clone()
    for function in ways.values():
        x.adv.copy_(start)
        got = function()
        x.grad.copy_(grad)
        value = got if isinstance(got, torch.Tensor) else x.adv
        gap = (value[:1].double() - want).abs().max().item()
        assert gap <= 1e-6, f"off by {gap}"
    return ways


def stats_ways(x: Inputs) -> dict[str, Callable[[], object]]:
    fast = torch.compile(plain.stats, dynamic=False)
    want = torch.stack(plain.stats(x.grad[:1].double(), 1e-4))
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: ops.noise_stats(x.grad, sigma=1e-4),
        "eager": lambda: plain.stats(x.grad, 1e-4),
        "compiled": lambda: fast(x.grad, 1e-4),
    }
    for name, function in ways.items():
        got = torch.stack(list(function()))[:, :1].double()  # type: ignore[call-overload]
        assert torch.allclose(got, want, rtol=1e-3, atol=1e-6), name
    return ways


def distance_ways(x: Inputs) -> dict[str, Callable[[], object]]:
    want = torch.stack(plain.distances(x.adv[:1].double(), x.clean[:1].double()))
    ways: dict[str, Callable[[], object]] = {"ours": lambda: ops.distances(x.adv, x.clean)}
    for name, function in {"": plain.distances, ", by norms": plain.distances_by_norms}.items():
        fast = torch.compile(function, dynamic=False)
        ways[f"eager{name}"] = lambda function=function: function(x.adv, x.clean)  # type: ignore[misc]
        ways[f"compiled{name}"] = lambda fast=fast: fast(x.adv, x.clean)  # type: ignore[misc]
    for name, function in ways.items():
        got = torch.stack(list(function()))[:, :1].double()  # type: ignore[call-overload]
        assert torch.allclose(got, want, rtol=1e-4), name
    return ways


def noise_ways(x: Inputs, gap: float | None) -> dict[str, Callable[[], object]]:
    """Noise added to images; ``gap`` None: plain Gaussian noise, else on its shell."""
    sigma = 0.1
    out, in_place = (plain.noisy, plain.noisy) if gap is None else (plain.shell, plain.shell_)
    fast = torch.compile(out, dynamic=False)
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: ops.typical_noise(x.adv, sigma=sigma, typicality=gap, seed=0, clean=x.clean, out=x.adv),
        "eager": lambda: out(x.clean, sigma, gap or 0.0),
        "eager in place": lambda: in_place(x.clean, sigma, gap or 0.0),
        "compiled": lambda: fast(x.clean, sigma, gap or 0.0),
    }
    for function in ways.values():
        check_noise(function(), x.clean, sigma, gap)  # type: ignore[arg-type]
    return ways


def ceiling(x: Inputs) -> Callable[[], object]:
    a, b, c = torch.rand_like(x.adv), torch.rand_like(x.adv), torch.rand_like(x.adv)
    return lambda: _cpu.triad(a.data_ptr(), b.data_ptr(), c.data_ptr(), a.numel(), torch.get_num_threads())


def row(label: str, times: dict[str, float], streams: int, x: Inputs) -> dict[str, object]:
    triad = times["triad"] * streams / 4
    print(
        f"\n{label}: {streams} streams of {x.bytes_each / 1e6:.3g} MB; as many bytes of a triad: {triad * 1e6:.4g} us"
    )
    for name, seconds in times.items():
        if name != "triad":
            print(
                f"  {name:<34} {seconds * 1e6:>12.2f} us  {streams * x.bytes_each / seconds / 1e9:6.2f} GB/s"
                f"  {triad / seconds:5.2f} of the triad  {seconds / times['ours']:6.2f} x ours"
            )
    return {"label": label, "streams": streams, "bytes_each": x.bytes_each, "seconds": times}


def main() -> None:
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}, {_cpu.instruction_set()} kernels")
    print(f"medians of {ROUNDS} interleaved rounds")
    rows = []
    for size, repeat in (("batch32", 1), ("64x64", 2000)):
        for norm, streams in (("linf", 4), ("l2", 7)):
            x = inputs(size)
            times = interleaved(step_ways(x, norm) | {"triad": ceiling(x)}, repeat)
            rows.append(row(f"pgd_step_ {norm} {size}", times, streams, x))
        x = inputs(size)
        rows.append(row(f"noise_stats {size}", interleaved(stats_ways(x) | {"triad": ceiling(x)}, repeat), 1, x))
        times = interleaved(distance_ways(x) | {"triad": ceiling(x)}, repeat)
        rows.append(row(f"distances {size}", times, 2, x))
        for label, gap in (("shell", 0.02), ("plain", None)):
            x = inputs(size)
            times = interleaved(noise_ways(x, gap) | {"triad": ceiling(x)}, repeat)
            rows.append(row(f"typical_noise {label} {size}", times, 2, x))
    out = Path("out") / "bench_table.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
