"""project_ with norm="l1" and l1_step_ beside plain PyTorch, which sorts."""

from __future__ import annotations

import pytest
import torch

from bench.common import both_sizes, compiled, inputs, timed
from fastattack import ops

KEEP = 0.05


def plain_project(adv, origin, eps):
    """Duchi et al., ICML 2008, without bounds."""
    d = (adv - origin).flatten(1)
    u = d.abs().sort(1, descending=True).values
    over = (u.cumsum(1) - eps) / torch.arange(1, u.shape[1] + 1, device=u.device)
    last = (u > over).sum(1, keepdim=True) - 1
    lam = over.gather(1, last).clamp(min=0)
    adv.copy_(origin + (d.sign() * (d.abs() - lam).clamp(min=0)).reshape(adv.shape))


def plain_step(adv, grad, origin, eps, step):
    size = grad.abs().flatten(1)
    least = size.topk(int(KEEP * size.shape[1]) + 1, dim=1).values[:, -1:]
    move = grad.flatten(1).sign() * (size >= least)
    move = move / move.abs().sum(1, keepdim=True)
    adv.add_(step * move.reshape(adv.shape))
    plain_project(adv, origin, eps)


def radius(x):
    return 0.01 * x.adv[0].numel() ** 0.5


@both_sizes
@pytest.mark.parametrize("name", ["ours", "eager", "compiled"])
@pytest.mark.parametrize("op", ["project", "step"])
def test_l1(benchmark, size, op, name):
    x = inputs(size)
    eps, start = radius(x), x.adv.clone()
    want = x.adv[:1].double()
    plain_project(want, x.origin[:1].double(), eps)
    project, sparse = (f if name == "eager" else compiled(f) for f in (plain_project, plain_step))

    def run():
        if op == "project":
            x.adv.copy_(start)  # so that each round has the same work; the copy is in its time
            if name == "ours":
                ops.project_(x.adv, x.origin, norm="l1", eps=eps)
            else:
                project(x.adv, x.origin, eps)
        elif name == "ours":
            ops.l1_step_(x.adv, x.grad, x.origin, eps=eps, step=0.1 * eps, keep=KEEP)
        else:
            sparse(x.adv, x.grad, x.origin, eps, 0.1 * eps)

    if op == "step":
        ops.project_(x.adv, x.origin, norm="l1", eps=eps)
        plain_step(want, x.grad[:1].double(), x.origin[:1].double(), eps, 0.1 * eps)
    run()
    assert (x.adv[:1].double() - want).abs().max() <= 1e-5 * eps
    timed(benchmark, run, (11 if op == "project" else 15) * x.bytes_each)
