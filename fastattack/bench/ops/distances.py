"""distances beside plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import ops
from .case import OpCase


def out_of_place(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    d = (a - b).flatten(1)
    return (d * d).mean(1), d.abs().sum(1), torch.linalg.vector_norm(d, dim=1), d.abs().amax(1)


def by_norms(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    """With the mean squared error from the norm and no second square."""
    d = (a - b).flatten(1)
    l2 = torch.linalg.vector_norm(d, dim=1)
    norm = torch.linalg.vector_norm
    return l2 * l2 / d.shape[1], norm(d, 1, dim=1), l2, norm(d, float("inf"), dim=1)


def cases(shape: tuple[int, ...]) -> list[OpCase]:
    return [
        OpCase(
            "distances", "distances", ("adv", "clean"), ops.distances,
            {"eager": out_of_place, "eager by norms": by_norms},
            {"compiled": out_of_place, "compiled by norms": by_norms},
            streams=2, operations=6, exact=out_of_place, written=(), slack=64,
        )
    ]  # fmt: skip
