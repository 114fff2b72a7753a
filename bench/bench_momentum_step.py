"""momentum_step_ beside plain PyTorch, in place. Each way is checked against float64 before it is timed."""

from __future__ import annotations

import pytest
import torch

from bench import plain
from bench.common import EPS, STEP, both_sizes, compiled, inputs, timed
from fastattack import ops

DECAY = 0.9


@both_sizes
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["ours", "eager in place", "compiled in place"])
def test_momentum_step(benchmark, size, norm, name):
    x = inputs(size)
    eps, step = (EPS, STEP) if norm == "linf" else (1.0, 0.2)
    function = plain.momentum_linf if norm == "linf" else plain.momentum_l2
    momentum = torch.randn(x.adv.shape, generator=torch.Generator().manual_seed(1))
    want = [t[:1].double() for t in (x.adv, momentum)]
    function(*want, x.grad[:1].double(), x.origin[:1].double(), eps, step, DECAY)
    if name == "compiled in place":
        function = compiled(function)

    def run():
        if name == "ours":
            ops.momentum_step_(x.adv, momentum, x.grad, x.origin, norm=norm, eps=eps, step=step, decay=DECAY)
        else:
            function(x.adv, momentum, x.grad, x.origin, eps, step, DECAY)

    run()
    assert torch.allclose(x.adv[:1].double(), want[0], atol=1e-6)
    assert torch.allclose(momentum[:1].double(), want[1], atol=1e-5)
    timed(benchmark, run, (7 if norm == "linf" else 10) * x.bytes_each)
