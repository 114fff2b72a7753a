"""accumulate.h in plain torch, on (B, 1, ...) numbers per sample."""

from __future__ import annotations

import torch
from torch import Tensor

from .backend import Scalar
from .reference_steps import per_sample, real_dtype


def accumulated(total: Tensor, grad: Tensor, keep: Tensor, weight: Tensor) -> Tensor:
    """What is taken 0 times is not looked at, so that no NaN comes from it."""
    return torch.where(keep == 0, 0.0, keep * total) + torch.where(weight == 0, 0.0, weight * grad)


def accumulate(total: Tensor, grad: Tensor, keep: Scalar, weight: Scalar) -> None:
    real = real_dtype(total.dtype)
    k, w = per_sample(keep, total, real), per_sample(weight, total, real)
    total.copy_(accumulated(total.to(real), grad.to(real), k, w).to(total.dtype))
