"""Samples of X drawn without regard to Z, for a critic's marginal pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from ..guard import fresh
from .network import require_whole


class MemoryBank:
    """Up to ``capacity`` samples of X (images or features), of which the newest replace the oldest.

    Every z is scored beside every sample in it: so a batch of one can be learnt from, and a constant bank (one that is
    not added to) keeps the samples of an attack apart.

    Args:
        samples: (K, ...) float, K >= 1; kept without a copy.
        capacity: the most to hold; by default K.

    Raises:
        TypeError, ValueError: an argument that does not fit; the message names it.
    """

    def __init__(self, samples: Tensor, *, capacity: int | None = None) -> None:
        if not isinstance(samples, Tensor) or not samples.is_floating_point():
            got = samples.dtype if isinstance(samples, Tensor) else type(samples).__name__
            raise TypeError(f"bank: wanted a float tensor of samples (K, ...), got {got}")
        if samples.dim() < 2 or samples.numel() == 0:
            raise ValueError(f"bank: wanted one sample or more (K, ...), got shape {tuple(samples.shape)}")
        self.capacity = len(samples) if capacity is None else capacity
        require_whole(self.capacity, "capacity", 1)
        self.samples = fresh(samples)[-self.capacity :]

    def __len__(self) -> int:
        return len(self.samples)

    def add(self, x: Tensor) -> None:
        """Take in (B, ...) samples, the last of them the newest."""
        if not isinstance(x, Tensor) or x.shape[1:] != self.samples.shape[1:]:
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"x: wanted samples (B, *{tuple(self.samples.shape[1:])}) as in the bank, got {got}")
        self.samples = torch.cat([self.samples, fresh(x).to(self.samples)])[-self.capacity :]
