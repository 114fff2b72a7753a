"""Image quality per sample, in float64: mean squared error and PSNR. Nothing is clipped here."""

from __future__ import annotations

import torch
from torch import Tensor

from .ops import check, dispatch, distances
from .ops.distance import psnr as decibels


def mse(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference of each sample.

    Args:
        a: images [B, ...], any floating dtype.
        b: images of the same shape.

    Returns:
        [B], float64.

    Raises:
        ValueError: shapes that differ, or no batch dimension, or samples without elements.
    """
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {tuple(a.shape)} and {tuple(b.shape)}")
    if a.ndim < 2 or a[:1].numel() == 0:
        raise ValueError(f"expected a batch of images [B, ...], got shape {tuple(a.shape)}")
    if _alike(a, b):
        # What was chosen for an attack on a GPU does not bind images that are measured on the CPU.
        return distances(a, b, backend=dispatch.best(a.device).name).mse
    return (a.double() - b.double()).square().flatten(1).mean(1)


def _alike(a: Tensor, b: Tensor) -> bool:
    """Whether the op takes them: one dtype and device, and no gradient wanted."""
    recorded = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
    return a.dtype in check.DTYPES and a.dtype is b.dtype and a.device == b.device and not recorded


def psnr(a: Tensor, b: Tensor, data_range: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio of each sample, ``10 log10(data_range² / mse)``.

    Args:
        a: images [B, ...], any floating dtype; values outside the range count as they are.
        b: images of the same shape.
        data_range: distance from black to white, 1 for images in [0, 1].

    Returns:
        [B], float64, in dB; infinite where the samples are equal.

    Raises:
        ValueError: shapes as for `mse`, or a data range that is not positive.
    """
    return decibels(mse(a, b), data_range)
