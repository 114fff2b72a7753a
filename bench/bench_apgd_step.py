"""apgd_step_ beside plain PyTorch. Each way is checked against float64 before it is timed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench import plain
from bench.common import EPS, STEP, both_sizes, compiled, inputs, timed
from fastattack import ops

MOMENTUM = 0.75


def moved(adv: Tensor, previous: Tensor, grad: Tensor, origin: Tensor, norm: str, eps: float, step: float) -> Tensor:
    """Out of place: two projections as plain.py has them."""
    at = plain.linf if norm == "linf" else plain.l2
    z = at(adv, grad, origin, eps, step)
    return at(adv + MOMENTUM * (z - adv) + (1 - MOMENTUM) * (adv - previous), torch.zeros_like(grad), origin, eps, 0.0)


def eager(adv: Tensor, previous: Tensor, *arguments: object) -> None:
    new = moved(adv, previous, *arguments)  # type: ignore[arg-type]
    previous.copy_(adv)
    adv.copy_(new)


def in_place(adv: Tensor, previous: Tensor, grad: Tensor, origin: Tensor, norm: str, eps: float, step: float) -> None:
    """With one buffer and the gradient's."""
    lag = (adv - previous).mul_(1 - MOMENTUM)
    previous.copy_(adv)
    still = torch.zeros((), dtype=adv.dtype)
    if norm == "linf":
        plain.linf_(adv, grad, origin, eps, step)
        adv.sub_(previous).mul_(MOMENTUM).add_(previous).add_(lag)
        adv.sub_(origin).clamp_(-eps, eps).add_(origin)
        return
    plain.l2_(adv, grad, origin, eps, step)
    adv.sub_(previous).mul_(MOMENTUM).add_(previous).add_(lag)
    plain.l2_(adv, still.expand_as(adv), origin, eps, 0.0)


@both_sizes
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["ours", "eager", "eager in place", "compiled in place"])
def test_apgd_step(benchmark, size, norm, name):
    x = inputs(size)
    eps, step = (EPS, STEP) if norm == "linf" else (1.0, 0.2)
    previous = x.adv + 0.1 * (x.origin - x.adv)
    old = x.adv[:1].clone()
    want = moved(*(t[:1].double() for t in (x.adv, previous, x.grad, x.origin)), norm, eps, step)
    arguments = (x.adv, previous, x.grad, x.origin, norm, eps, step)
    if name == "ours":
        run = lambda: ops.apgd_step_(*arguments[:4], norm=norm, eps=eps, step=step, momentum=MOMENTUM)  # noqa: E731
    else:
        function = {"eager": eager, "eager in place": in_place}.get(name) or compiled(eager)
        run = lambda: function(*arguments)  # noqa: E731
    run()
    assert torch.allclose(x.adv[:1].double(), want, atol=1e-6)
    assert torch.equal(previous[:1], old)
    timed(benchmark, run, (6 if norm == "linf" else 10) * x.bytes_each)
