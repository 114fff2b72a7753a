"""project_ beside plain PyTorch."""

from __future__ import annotations

import pytest
import torch

from bench.common import EPS, both_sizes, compiled, inputs, timed
from fastattack import ops


def plain_linf(adv, origin, eps):
    adv.copy_((adv - origin).clamp(-eps, eps) + origin)


def plain_l2(adv, origin, eps):
    d = adv - origin
    length = torch.linalg.vector_norm(d.flatten(1), dim=1).reshape(-1, 1, 1, 1)
    adv.copy_(origin + d * (eps / length.clamp(min=1e-30)).clamp(max=1))


@both_sizes
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["ours", "eager", "compiled in place"])
def test_project(benchmark, size, norm, name):
    x = inputs(size)
    eps = EPS / 4 if norm == "linf" else 0.3
    function = plain_linf if norm == "linf" else plain_l2
    want = x.adv[:1].double()
    function(want, x.origin[:1].double(), eps)
    if name != "eager":
        function = compiled(function)
    if name == "ours":
        run = lambda: ops.project_(x.adv, x.origin, norm=norm, eps=eps)  # noqa: E731
    else:
        run = lambda: function(x.adv, x.origin, eps)  # noqa: E731
    run()
    assert torch.allclose(x.adv[:1].double(), want, atol=1e-6)
    timed(benchmark, run, (3 if norm == "linf" else 5) * x.bytes_each)
