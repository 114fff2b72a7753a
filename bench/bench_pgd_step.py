"""pgd_step_ beside plain PyTorch. Each way is checked against float64 before it is timed."""

from __future__ import annotations

import pytest
import torch

from bench import plain
from bench.common import EPS, STEP, both_sizes, compiled, inputs, timed
from fastattack import ops

WAYS = ["ours", "eager", "eager in place", "compiled", "compiled in place"]


def way(name: str, norm: str, x, eps: float, step: float):
    """A function without arguments, and the tensor that it writes (None: it returns its result)."""
    out_of_place, in_place, copy = {
        "linf": (plain.linf, plain.linf_, plain.linf_copy),
        "l2": (plain.l2, plain.l2_, plain.l2_copy),
    }[norm]
    arguments = (x.adv, x.grad, x.origin, eps, step)
    if name == "ours":
        return lambda: ops.pgd_step_(x.adv, x.grad, x.origin, norm=norm, eps=eps, step=step)
    function = {"eager": out_of_place, "eager in place": in_place}.get(name)
    if function is None:
        function = compiled(out_of_place if name == "compiled" else copy)
    return lambda: function(*arguments)


@both_sizes
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", WAYS)
def test_pgd_step(benchmark, size, norm, name):
    x = inputs(size)
    eps, step = (EPS, STEP) if norm == "linf" else (1.0, 0.2)
    reference = plain.linf if norm == "linf" else plain.l2
    want = reference(*(t.double() for t in (x.adv[:1], x.grad[:1], x.origin[:1])), eps, step)
    run = way(name, norm, x, eps, step)
    got = run()
    got = x.adv if got is None else got
    assert torch.allclose(got[:1].double(), want, atol=1e-6)
    timed(benchmark, run, (4 if norm == "linf" else 7) * x.bytes_each)
