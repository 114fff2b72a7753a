"""What an objective is, and what all of them demand of output and target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..ops.check import is_number

Objective = Callable[[Any, Any], Tensor]


@runtime_checkable
class Scheduled(Protocol):
    """An objective that changes from step to step, as SegPGD's does.

    The losses of two steps are then values of two functions: they do not compare, and an attack keeps the last iterate.
    """

    def __call__(self, output: Any, target: Any) -> Tensor: ...

    def at(self, step: int, steps: int) -> Objective:
        """The objective of gradient step ``step`` = 0 .. steps - 1; ``step`` = steps judges the last iterate."""
        ...


def widened(t: Tensor) -> Tensor:
    """In float32 at least."""
    return t.to(torch.promote_types(t.dtype, torch.float32))


def pair(output: Any, target: Any) -> tuple[Tensor, Tensor]:
    """Two tensors of one shape, in the output's dtype or float32, whichever is wider."""
    if not isinstance(output, Tensor):
        raise TypeError(
            f"model: wanted a tensor as output, got {type(output).__name__}; pass an objective that takes it"
        )
    if not isinstance(target, Tensor):
        raise TypeError(f"target: wanted a tensor like the model's output, got {type(target).__name__}")
    if output.shape != target.shape:
        raise ValueError(
            f"model: wanted an output of the target's shape {tuple(target.shape)}, got {tuple(output.shape)}"
        )
    wide = widened(output)
    return wide, target.to(wide.dtype)


def sample_mean(t: Tensor) -> Tensor:
    """(B, ...) to the mean of each sample, (B,)."""
    return t.flatten(1).mean(1) if t.dim() > 1 else t


def require_positive(value: Any, name: str) -> None:
    if not is_number(value) or value <= 0:
        raise ValueError(f"{name}: wanted a finite number above 0, got {value!r}")


def require_flag(value: Any, name: str) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name}: wanted True or False, got {value!r}")
