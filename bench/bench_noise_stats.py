"""noise_stats beside plain PyTorch."""

from __future__ import annotations

import pytest
import torch

from bench import plain
from bench.common import both_sizes, compiled, inputs, timed
from fastattack import ops


@both_sizes
@pytest.mark.parametrize("name", ["ours", "eager", "compiled"])
def test_noise_stats(benchmark, size, name):
    noise = inputs(size).grad
    function = {
        "ours": lambda n, s: ops.noise_stats(n, sigma=s),
        "eager": plain.stats,
        "compiled": compiled(plain.stats),
    }[name]
    want = torch.stack(plain.stats(noise[:1].double(), 1e-4))
    got = torch.stack(list(function(noise, 1e-4)))[:, :1].double()
    assert torch.allclose(got[1:], want[1:], rtol=1e-3, atol=1e-6)
    timed(benchmark, lambda: function(noise, 1e-4), noise.numel() * noise.element_size())
