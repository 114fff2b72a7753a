"""What the benchmarks share: sizes, inputs, the ways to run an op, and the check that stands before each timing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

SIZES = {"64x64": (1, 1, 64, 64), "batch32": (32, 3, 512, 512)}
EPS, STEP = 5 / 255, 1 / 255


@dataclass(frozen=True)
class Inputs:
    adv: Tensor
    grad: Tensor
    origin: Tensor
    clean: Tensor

    @property
    def bytes_each(self) -> int:
        return self.adv.numel() * self.adv.element_size()


def inputs(size: str, dtype: torch.dtype = torch.float32) -> Inputs:
    g = torch.Generator().manual_seed(0)
    shape = SIZES[size]
    clean = torch.rand(shape, generator=g)
    origin = clean + 0.1 * torch.randn(shape, generator=g)
    adv = origin + 0.01 * torch.randn(shape, generator=g)
    grad = 1e-4 * torch.randn(shape, generator=g)
    return Inputs(*(t.to(dtype) for t in (adv, grad, origin, clean)))


def check_noise(noisy: Tensor, clean: Tensor, sigma: float, gap: float | None) -> None:
    """The gap and the mean of the noise, in float64; without a gap, those that plain noise can have."""
    noise = (noisy.double() - clean.double()).flatten(1)
    typicality = 0.5 * (noise.square().mean(1) / sigma**2 - 1)
    slack = 6 / (2 * noise.shape[1]) ** 0.5 if gap is None else 1e-4
    assert (typicality - (gap or 0.0)).abs().max() < slack
    assert gap is None or noise.mean(1).abs().max() < 1e-6


def compiled(function: Callable[..., object]) -> Callable[..., object]:
    """torch.compile, with the shapes fixed: its strongest form."""
    return torch.compile(function, dynamic=False)


def timed(benchmark, function: Callable[[], object], moved: int) -> None:
    """Runs the benchmark; ``moved``: the bytes that must move, for GB/s."""
    benchmark.pedantic(function, rounds=7, warmup_rounds=2) if moved > 1 << 22 else benchmark(function)
    if benchmark.stats:
        benchmark.extra_info["GB/s"] = round(moved / benchmark.stats.stats.median / 1e9, 2)


both_sizes = pytest.mark.parametrize("size", list(SIZES))
