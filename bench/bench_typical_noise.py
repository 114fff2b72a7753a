"""typical_noise beside plain torch: noise on its shell, and plain noise, added to clean images."""

from __future__ import annotations

import pytest

from bench import plain
from bench.common import both_sizes, check_noise, compiled, inputs, timed
from fastattack import ops

SIGMA, GAP = 0.1, 0.02


@both_sizes
@pytest.mark.parametrize("kind", ["shell", "plain"])
@pytest.mark.parametrize("name", ["ours", "eager", "eager in place", "compiled"])
def test_typical_noise(benchmark, size, kind, name):
    x = inputs(size)
    clean, out = x.clean, x.adv
    by_hand, in_place = (plain.shell, plain.shell_) if kind == "shell" else (plain.noisy, plain.noisy)
    gap = GAP if kind == "shell" else None
    fast = compiled(by_hand)
    runs = {
        "ours": lambda: ops.typical_noise(out, out=out, clean=clean, sigma=SIGMA, typicality=gap, seed=0),
        "eager": lambda: by_hand(clean, SIGMA, GAP),
        "eager in place": lambda: in_place(clean, SIGMA, GAP),
        "compiled": lambda: fast(clean, SIGMA, GAP),
    }
    check_noise(runs[name](), clean, SIGMA, gap)
    timed(benchmark, runs[name], 2 * x.bytes_each)
