"""typical_noise beside plain torch: noise on its shell, added to clean images."""

from __future__ import annotations

import pytest
import torch

from bench.common import both_sizes, compiled, inputs, timed
from fastattack import ops

SIGMA, GAP = 0.1, 0.02


def shell(clean: torch.Tensor) -> torch.Tensor:
    """As a careful user writes it. torch sums squares in float32: the typicality is off by about 1e-5."""
    noise = torch.randn_like(clean)
    noise = noise - noise.mean((1, 2, 3), keepdim=True)
    norm = torch.linalg.vector_norm(noise.flatten(1), dim=1).reshape(-1, 1, 1, 1)
    return clean + noise * (SIGMA * (clean[0].numel() * (1 + 2 * GAP)) ** 0.5 / norm)


def plain(clean: torch.Tensor) -> torch.Tensor:
    return clean + SIGMA * torch.randn_like(clean)


def check(noisy: torch.Tensor, clean: torch.Tensor, kind: str) -> None:
    noise = (noisy.double() - clean.double()).flatten(1)
    typicality = 0.5 * (noise.square().mean(1) / SIGMA**2 - 1)
    slack = 1e-4 if kind == "shell" else 6 / (2 * noise.shape[1]) ** 0.5
    assert (typicality - (GAP if kind == "shell" else 0.0)).abs().max() < slack
    assert kind == "plain" or noise.mean(1).abs().max() < 1e-6


@both_sizes
@pytest.mark.parametrize("kind", ["shell", "plain"])
@pytest.mark.parametrize("name", ["ours", "eager", "compiled"])
def test_typical_noise(benchmark, size, kind, name):
    x = inputs(size)
    clean, out = x.clean, x.adv
    by_hand = shell if kind == "shell" else plain
    fast = compiled(by_hand)
    options = {"sigma": SIGMA, "typicality": GAP if kind == "shell" else None, "seed": 0}
    runs = {
        "ours": lambda: ops.typical_noise(out, out=out, clean=clean, **options),
        "eager": lambda: by_hand(clean),
        "compiled": lambda: fast(clean),
    }
    check(runs[name](), clean, kind)
    timed(benchmark, runs[name], 2 * x.bytes_each)
