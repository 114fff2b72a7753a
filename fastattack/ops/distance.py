"""The public op distances: what lies between two batches of images, per sample."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import check, library
from .dispatch import resolve
from .layout import INNER_DIMS, collapse


class Distances(NamedTuple):
    """Distances of each sample, all (B,) and float64."""

    mse: Tensor
    """Mean of the squared differences."""
    l1: Tensor
    l2: Tensor
    linf: Tensor

    def psnr(self, data_range: float = 1.0) -> Tensor:
        """Peak signal-to-noise ratio, ``10 log10(data_range² / mse)``: (B,) in dB; infinite where samples are equal.

        Args:
            data_range: distance from black to white, 1 for images in [0, 1].

        Raises:
            ValueError: a data range that is not positive.
        """
        return psnr(self.mse, data_range)


def psnr(mse: Tensor, data_range: float) -> Tensor:
    """(B,) in dB, from the mean squared errors."""
    if not data_range > 0:
        raise ValueError(f"data_range must be positive, got {data_range}")
    return 10 * (data_range**2 / mse).log10()


def distances(a: Tensor, b: Tensor, *, backend: str = "auto") -> Distances:
    """Mean squared error and the norms of a - b of each sample, from one pass over both.

    Differences, squares and sums are made in double, so the results are those of float64 images to rounding; squares of
    float64 that leave double's range cost no norm. Equal samples give exactly 0. No gradient goes through; for one
    there is `fastattack.objectives`.

    Args:
        a: (B, ...).
        b: as a: shape, dtype, device. The layouts may differ, and the memory may be shared.

    Returns:
        Distances of (B,) tensors, float64 for every storage type.

    Raises:
        TypeError, ValueError, BackendUnavailable: see fastattack.ops.
    """
    a, b = check.as_tensor(a, "a"), check.as_tensor(b, "b")
    table = library.distances(a, b, backend) if library.traced(a) else _distances(a, b, backend)
    return Distances(*table.unbind(1))


def _distances(a: Tensor, b: Tensor, backend: str) -> Tensor:
    check.images(("a", "b"), a, b)
    table = resolve(a.device, backend)
    if a.numel() == 0:
        return a.new_empty(0, 4, dtype=torch.float64)
    if a.dim() > INNER_DIMS + 1 and collapse(a, b) is None:
        a, b = a.contiguous(), b.contiguous()
    return table.distances(a, b)


library.register(_distances)
