"""accumulate_ beside plain PyTorch."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from ... import ops
from .case import OpCase

KEEP, WEIGHT = 0.9, 0.1


def out_of_place(total: Tensor, grad: Tensor) -> Tensor:
    return KEEP * total + WEIGHT * grad


def in_place(total: Tensor, grad: Tensor) -> None:
    total.mul_(KEEP).add_(grad, alpha=WEIGHT)


def lerp(total: Tensor, grad: Tensor) -> Tensor:
    """In one pass, because the two weights sum to 1."""
    return total.lerp_(grad, WEIGHT)


def cases(shape: tuple[int, ...]) -> list[OpCase]:
    return [
        OpCase(
            "accumulate_", "accumulate", ("momentum", "grad"),
            partial(ops.accumulate_, keep=KEEP, weight=WEIGHT),
            {"eager": out_of_place, "eager in place": in_place, "eager in place, lerp": lerp},
            {"compiled": out_of_place, "compiled in place": in_place},
            streams=3, operations=3, exact=out_of_place, written=("momentum",),
            restores=True,  # or 0.9 to the power of the calls is subnormal soon
        )
    ]  # fmt: skip
