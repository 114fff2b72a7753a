"""preserve_noise_, beside recentring and rescaling, which is what plain PyTorch has (and misses the tolerances)."""

from __future__ import annotations

import pytest
import torch

from bench import plain
from bench.common import EPS, both_sizes, compiled, inputs, timed
from fastattack import ops


@both_sizes
@pytest.mark.parametrize("name", ["ours", "recentre x4 eager", "recentre x4 compiled"])
def test_preserve_noise(benchmark, size, name):
    x = inputs(size)
    attacked = x.origin + EPS * x.grad.sign()
    work = attacked.clone()

    def ours():
        work.copy_(attacked)  # so that each round has the same work; the copy is in its time
        return ops.preserve_noise_(work, x.origin, x.clean, norm="linf", eps=EPS)

    recentre = plain.recentre if "eager" in name else compiled(plain.recentre)
    run = ours if name == "ours" else (lambda: recentre(attacked, x.origin, x.clean, EPS))
    before, after = ((t - x.clean).double().flatten(1) for t in (x.origin, run()))
    error = (after.norm(dim=1) / before.norm(dim=1) - 1).abs().max().item()
    assert error <= (1e-4 if name == "ours" else 1e-1)
    benchmark.extra_info["norm error"] = error
    timed(benchmark, run, 3 * x.bytes_each)


@both_sizes
def test_noise_kept_through_l2(benchmark, size):
    x = inputs(size)
    adv = (x.origin + 0.01 * torch.sign(x.grad)).clone()
    timed(benchmark, lambda: ops.preserve_noise_(adv, x.origin, x.clean, norm="l2", eps=1.0), 7 * x.bytes_each)
