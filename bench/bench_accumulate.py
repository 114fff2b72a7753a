"""accumulate_ beside plain PyTorch, in place. Each way is checked against float64 before it is timed."""

from __future__ import annotations

import pytest
import torch

from bench.common import both_sizes, compiled, inputs, timed
from fastattack import ops

KEEP, WEIGHT = 0.9, 0.1


def plain(total: torch.Tensor, grad: torch.Tensor) -> None:
    total.mul_(KEEP).add_(grad, alpha=WEIGHT)


@both_sizes
@pytest.mark.parametrize("name", ["ours", "eager in place", "compiled in place"])
def test_accumulate(benchmark, size, name):
    x = inputs(size)
    want = KEEP * x.adv[:1].double() + WEIGHT * x.grad[:1].double()
    function = compiled(plain) if name == "compiled in place" else plain

    def run():
        if name == "ours":
            ops.accumulate_(x.adv, x.grad, keep=KEEP, weight=WEIGHT)
        else:
            function(x.adv, x.grad)

    run()
    assert torch.allclose(x.adv[:1].double(), want, atol=1e-6)
    timed(benchmark, run, 3 * x.bytes_each)
