"""random_start_ beside torch's generator."""

from __future__ import annotations

import pytest
import torch

from bench.common import EPS, both_sizes, inputs, timed
from fastattack import ops


@both_sizes
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["ours", "eager"])
def test_random_start(benchmark, size, norm, name):
    x = inputs(size)

    def eager():
        if norm == "linf":
            return x.adv.uniform_(-EPS, EPS).add_(x.origin)
        n = torch.randn_like(x.adv)
        d = n[0].numel()
        scale = torch.rand(len(n)).pow(1 / d) / torch.linalg.vector_norm(n.flatten(1), dim=1)
        return x.adv.copy_(x.origin).addcmul_(n, scale.reshape(-1, 1, 1, 1))

    ours = lambda: ops.random_start_(x.adv, x.origin, norm=norm, eps=EPS if norm == "linf" else 1.0, seed=0)  # noqa: E731
    run = ours if name == "ours" else eager
    delta = run() - x.origin
    size_of = delta.abs().amax() if norm == "linf" else delta.flatten(1).norm(dim=1).amax()
    assert size_of <= (EPS if norm == "linf" else 1.0) * 1.001
    timed(benchmark, run, 2 * x.bytes_each)
