"""distances beside plain PyTorch."""

from __future__ import annotations

import pytest
import torch

from bench import plain
from bench.common import both_sizes, compiled, inputs, timed
from fastattack import ops


@both_sizes
@pytest.mark.parametrize("name", ["ours", "eager", "eager by norms", "compiled", "compiled by norms"])
def test_distances(benchmark, size, name):
    x = inputs(size)
    written = plain.distances_by_norms if name.endswith("by norms") else plain.distances
    function = ops.distances if name == "ours" else compiled(written) if name.startswith("compiled") else written
    want = torch.stack(plain.distances(x.adv[:1].double(), x.clean[:1].double()))
    got = torch.stack(list(function(x.adv, x.clean)))[:, :1].double()
    assert torch.allclose(got, want, rtol=1e-4)
    timed(benchmark, lambda: function(x.adv, x.clean), 2 * x.bytes_each)
