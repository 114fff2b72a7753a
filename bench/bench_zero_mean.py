"""zero_mean_step_ beside plain PyTorch."""

from __future__ import annotations

import pytest
import torch

from bench.common import both_sizes, compiled, inputs, timed
from fastattack import ops

RADIUS, LENGTH = 5.0, 1.0


def norm(x):
    return torch.linalg.vector_norm(x.flatten(1), dim=1).reshape(-1, 1, 1, 1).clamp(min=1e-30)


def centred(x):
    return x - x.mean((1, 2, 3), keepdim=True)


def plain(adv, grad, origin):
    g = centred(grad)
    d = centred(adv - origin) + LENGTH * g / norm(g)
    adv.copy_(origin + d * (RADIUS / norm(d)).clamp(max=1))


def in_place(adv, grad, origin):
    """The gradient is used up."""
    grad.sub_(grad.mean((1, 2, 3), keepdim=True))
    adv.sub_(origin)
    adv.sub_(adv.mean((1, 2, 3), keepdim=True)).addcdiv_(grad, norm(grad), value=LENGTH)
    adv.mul_((RADIUS / norm(adv)).clamp_(max=1)).add_(origin)


@both_sizes
@pytest.mark.parametrize("name", ["ours", "eager", "in place", "compiled"])
def test_zero_mean_step(benchmark, size, name):
    x = inputs(size)
    want = x.adv[:1].double()
    plain(want, x.grad[:1].double(), x.origin[:1].double())
    function = {"eager": plain, "in place": in_place, "compiled": compiled(plain)}.get(name)
    if function is None:
        run = lambda: ops.zero_mean_step_(x.adv, x.grad, x.origin, eps=RADIUS, step=LENGTH)  # noqa: E731
    else:
        run = lambda: function(x.adv, x.grad, x.origin)  # noqa: E731
    run()
    assert torch.allclose(x.adv[:1].double(), want, atol=1e-6)
    timed(benchmark, run, 7 * x.bytes_each)
