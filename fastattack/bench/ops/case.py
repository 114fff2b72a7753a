"""An op beside the plain PyTorch that does the same: what a case says, and how it becomes a trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Check = Callable[["Tensors", tuple[Tensor, ...]], float]
DTYPES = ("float32", "bfloat16", "float16")
SIDES = {"ours": 1.0, "plain": 1.0}


@dataclass(frozen=True)
class OpCase:
    """Every function takes the tensors ``names`` says, by position, and works per sample.

    Args:
        label: name of the row.
        stem: file that the op has in csrc, kernels, ops and tests.
        names: of the tensors, of `inputs.NAMES`.
        ours: with ``backend=`` besides.
        plain: as torch users write it, by name.
        compiled: what torch.compile gets, by name.
        streams: how many tensors' worth of bytes must move: each pass over a tensor, read or written, counts one.
        operations: of arithmetic for a pixel, about.
        exact: the right result from float64 tensors, written independently of our kernels; None where ``check`` judges.
        check: how far the outputs are off, from the tensors as they were before; in units of its own.
        allowed: how far ours and plain may be off by ``check``.
        written: the tensors that hold the result of a function that returns None.
        restores: every call starts from the first values again, and the copy is in its time; for work that
            depends on them.
        dtypes: storage types that the op takes.
        slack: multiple of the tolerance of the storage type that plain PyTorch needs for its intermediate results.
    """

    label: str
    stem: str
    names: tuple[str, ...]
    ours: Callable[..., Any]
    plain: Mapping[str, Callable[..., Any]]
    compiled: Mapping[str, Callable[..., Any]]
    streams: float
    operations: float
    exact: Callable[..., Any] | None = None
    check: Check | None = None
    allowed: Mapping[str, float] = field(default_factory=lambda: SIDES)
    written: tuple[str, ...] = ("adv",)
    restores: bool = False
    slack: float = 1.0
    dtypes: tuple[str, ...] = DTYPES


Tensors = dict[str, Tensor]


def outputs(value: Any, case: OpCase, x: Tensors) -> tuple[Tensor, ...]:
    """What a call gave: its result, or the tensors that it wrote."""
    if value is None:
        return tuple(x[name] for name in case.written)
    return (value,) if isinstance(value, Tensor) else tuple(value)


def tolerance(got: Tensor, slack: float = 1.0) -> float:
    """Four spacings of the result's type at 1, times the slack; float64 need not agree beyond 4e-13."""
    return 4 * max(torch.finfo(got.dtype).eps, 1e-13) * slack


def off_by(got: Tensor, want: Tensor) -> float:
    """The largest |got - want| / (1 + |want|); a NaN is infinitely far."""
    gap = ((got.double() - want).abs() / (1 + want.abs())).amax().item() if want.numel() else 0.0
    return gap if gap == gap else float("inf")
