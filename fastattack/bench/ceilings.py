"""What the machine can do at all: bandwidth, random numbers, arithmetic, launches."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from .result import Ceiling
from .timing import Pace, interleaved
from .trial import Call

LARGE, SMALL = 1 << 27, 1 << 14
"""Bytes of a tensor that no cache of a usual machine holds, and of one that the first cache holds."""
SIDE = 1024
"""Of the matrices."""


@dataclass(frozen=True)
class Stream:
    """A call that moves ``bytes`` and hardly computes."""

    name: str
    call: Call
    bytes: int


def triad(size: int) -> Stream:
    """a <- a / 2 + (b + c) on the CPU, float32 of ``size`` bytes each: three tensors read, one written."""
    from .. import _cpu

    count = max(1, size // 4)
    a, b, c = (torch.zeros(count) for _ in range(3))

    def call() -> None:
        _cpu.triad(a.data_ptr(), b.data_ptr(), c.data_ptr(), count, torch.get_num_threads())

    return Stream("triad", call, 16 * count)


def copy(size: int, device: str) -> Stream:
    """b <- a, as torch does it."""
    a, b = (torch.zeros(max(1, size), dtype=torch.uint8, device=device) for _ in range(2))
    return Stream("copy", lambda: b.copy_(a), 2 * max(1, size))


def stream(size: int, device: str) -> Stream:
    """What an op is measured against: as many streams as a step has on the CPU, the device's copy on a GPU."""
    return triad(size) if device == "cpu" else copy(size, device)


def numpy_normals(count: int) -> Call:
    """The fastest generator of NumPy (SFC64 and a ziggurat), one for each thread of torch's; it lets the others run."""
    threads = torch.get_num_threads()
    out = np.empty((threads, count // threads), np.float32)
    generators = [np.random.Generator(np.random.SFC64(k)) for k in range(threads)]
    pool = ThreadPoolExecutor(threads)

    def fill(k: int) -> None:
        generators[k].standard_normal(dtype=np.float32, out=out[k])

    if threads == 1:
        return lambda: fill(0)  # in the thread whose time counts
    return lambda: list(pool.map(fill, range(threads)))


def probes(device: str, quick: bool) -> Iterator[tuple[str, Call, float, str, str]]:
    """(name, call, amount in a call, unit, detail); the rate is the amount over the time, or the time itself for us."""
    large = LARGE >> 4 if quick else LARGE
    for size, where in ((large, "memory"), (SMALL, "cache")):
        streams = [copy(size, device)] if device == "cuda" else [copy(size, device), triad(size)]
        for one in streams:
            yield f"{one.name}, {where}", one.call, one.bytes / 1e9, "GB/s", f"tensors of {size} bytes"
    count = 1 << (18 if quick else 22)
    numbers = torch.empty(count, device=device)
    yield "torch normal_", numbers.normal_, count / 1e9, "G numbers/s", "float32"
    yield "torch uniform_", numbers.uniform_, count / 1e9, "G numbers/s", "float32"
    if device == "cpu":
        yield "NumPy SFC64 normals", numpy_normals(count), count / 1e9, "G numbers/s", "float32, a generator a thread"
    a, b = (torch.rand(SIDE, SIDE, device=device) for _ in range(2))
    c = torch.empty_like(a)
    detail = f"{SIDE} x {SIDE}, float32"
    yield "matrix product", lambda: torch.mm(a, b, out=c), 2 * SIDE**3 / 1e9, "G operations/s", detail
    if device == "cuda":
        number = torch.empty(1, device=device)
        yield "launch", number.zero_, 0.0, "us", "a kernel that writes one number"


def ceilings(pace: Pace, *, quick: bool = False) -> tuple[Ceiling, ...]:
    """Measured in turn with one another; the medians."""
    found = list(probes(pace.device, quick))
    times = interleaved({name: call for name, call, *_ in found}, pace)
    return tuple(
        Ceiling(name, _rate(statistics.median(times[name]), amount, unit), unit, detail)
        for name, _, amount, unit, detail in found
    )


def _rate(seconds: float, amount: float, unit: str) -> float:
    return seconds * 1e6 if unit == "us" else amount / seconds
