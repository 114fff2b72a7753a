"""accumulate.h in plain torch, on (B, 1, ...) numbers per sample."""

from __future__ import annotations

import torch
from torch import Tensor


def accumulated(total: Tensor, grad: Tensor, keep: Tensor, weight: Tensor) -> Tensor:
    """What is taken 0 times is not looked at, so that no NaN comes from it."""
    return torch.where(keep == 0, 0.0, keep * total) + torch.where(weight == 0, 0.0, weight * grad)
