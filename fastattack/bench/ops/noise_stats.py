"""noise_stats beside plain PyTorch."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ... import ops
from .case import OpCase

SIGMA = 0.01


def stats(noise: Tensor, sigma: float) -> tuple[Tensor, ...]:
    n = noise.flatten(1)
    square = (n * n).mean(1)
    return (
        n.mean(1), n.std(1, correction=0), n.abs().sum(1), torch.linalg.vector_norm(n, dim=1), n.abs().amax(1),
        0.5 * (square / sigma**2 - 1),
    )  # fmt: skip


def by_norms(noise: Tensor, sigma: float) -> tuple[Tensor, ...]:
    """Fewer passes: the deviation and the typicality from the norm and the mean."""
    n = noise.flatten(1)
    mean, l2 = n.mean(1), torch.linalg.vector_norm(n, dim=1)
    square = l2 * l2 / n.shape[1]
    return (
        mean, (square - mean * mean).clamp(min=0).sqrt(), torch.linalg.vector_norm(n, 1, dim=1), l2,
        torch.linalg.vector_norm(n, float("inf"), dim=1), 0.5 * (square / sigma**2 - 1),
    )  # fmt: skip


def cases(shape: tuple[int, ...]) -> list[OpCase]:
    out, short = partial(stats, sigma=SIGMA), partial(by_norms, sigma=SIGMA)
    return [
        OpCase(
            "noise_stats", "noise_stats", ("grad",), partial(ops.noise_stats, sigma=SIGMA),
            {"eager": out, "eager by norms": short}, {"compiled": out, "compiled by norms": short},
            streams=1, operations=7, exact=out, written=(), slack=64,
        )
    ]  # fmt: skip
