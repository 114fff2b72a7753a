"""quantise_ beside plain PyTorch, which rounds and then moves pixels that left the ball by one level."""

from __future__ import annotations

import pytest
import torch

from bench.common import EPS, both_sizes, compiled, inputs, timed
from fastattack import ops


def plain(adv, origin, out):
    low = ((origin - EPS).clamp(0, 1) * 255 - 1e-4).ceil()
    high = ((origin + EPS).clamp(0, 1) * 255 + 1e-4).floor()
    out.copy_(torch.minimum(torch.maximum((adv * 255).round(), low), high) / 255)


@both_sizes
@pytest.mark.parametrize("name", ["ours", "eager", "compiled"])
def test_quantise(benchmark, size, name):
    x = inputs(size)
    origin = x.origin.clamp_(0, 1)
    want, got = torch.empty_like(x.adv), x.adv.clone()
    plain(x.adv, origin, want)
    ops.quantise_(got, origin, eps=EPS)
    assert (got - want).abs().max() <= 1.01 / 255  # ties and edges; the rest of the check is in tests/test_quantise.py
    function = compiled(plain) if name == "compiled" else plain
    ours = lambda: ops.quantise_(got, origin, eps=EPS)  # noqa: E731
    theirs = lambda: function(x.adv, origin, want)  # noqa: E731
    run = ours if name == "ours" else theirs
    run()
    timed(benchmark, run, 3 * x.bytes_each)
