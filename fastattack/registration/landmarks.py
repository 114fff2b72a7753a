"""Landmarks: points of an image that a person would find again."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_SMOOTH = 1.5  # voxels


def landmarks(images: Tensor, masks: Tensor, count: int) -> Tensor:
    """Strong corners inside the masks, spread: (B, count, d) float32 whole positions in voxels.

    A corner is strong where the smoothed matrix C of the gradient's products has a high det C / trace C (Rohr, 1997).
    The strongest is taken, then the strongest that is far enough from it, and so on; where too few are left the
    distance is halved.

    Args:
        images: (B, 1, *spatial). masks: the same shape, bool.

    Raises:
        ValueError: no landmark at all wanted, or a mask of fewer voxels than landmarks; names the sample.
    """
    if count < 1:
        raise ValueError(f"count: wanted one landmark at least, got {count}")
    strength = _corners(images.detach().double())
    found = []
    for sample, (values, mask) in enumerate(zip(strength, masks[:, 0], strict=True)):
        inside = mask.nonzero()
        if len(inside) < count:
            raise ValueError(
                f"masks: wanted {count} voxels at least for as many landmarks, got {len(inside)} in {sample}"
            )
        order = values[mask].argsort(descending=True, stable=True)
        found.append(_spread(inside[order].cpu().numpy(), count))
    return torch.tensor(np.reshape(found, (len(images), count, -1)), dtype=torch.float32, device=images.device)


def _spread(places: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """The first of (N, d) places that keep their distance from those before them."""
    least = 0.7 * (len(places) / count) ** (1 / places.shape[1])
    while True:
        left, chosen = places, list[npt.NDArray[np.int64]]()
        while len(left) and len(chosen) < count:
            chosen.append(left[0])
            left = left[((left - left[0]) ** 2).sum(1) >= max(least * least, 1)]
        if len(chosen) == count:
            return np.stack(chosen)
        least /= 2


def _corners(images: Tensor) -> Tensor:
    """(B, *spatial): det C / trace C."""
    dims = images.dim() - 2
    slopes = [_slope(images[:, 0], 1 + k) for k in range(dims)]
    c = {(i, k): _smoothed(slopes[i] * slopes[k]) for i in range(dims) for k in range(i, dims)}
    if dims == 2:
        det = c[0, 0] * c[1, 1] - c[0, 1] * c[0, 1]
    else:
        det = (
            c[0, 0] * (c[1, 1] * c[2, 2] - c[1, 2] * c[1, 2])
            - c[0, 1] * (c[0, 1] * c[2, 2] - c[1, 2] * c[0, 2])
            + c[0, 2] * (c[0, 1] * c[1, 2] - c[1, 1] * c[0, 2])
        )  # fmt: skip
    trace = c[0, 0] + c[1, 1] if dims == 2 else c[0, 0] + c[1, 1] + c[2, 2]
    return det / (trace + 1e-12)


def _slope(values: Tensor, axis: int) -> Tensor:
    """Central differences; 0 at both ends."""
    n = values.shape[axis]
    out = torch.zeros_like(values)
    if n > 2:
        out.narrow(axis, 1, n - 2).copy_((values.narrow(axis, 2, n - 2) - values.narrow(axis, 0, n - 2)) / 2)
    return out


def _smoothed(values: Tensor) -> Tensor:
    """Under a Gaussian; sums in a fixed order, so that the batch changes no bit."""
    reach = math.ceil(3 * _SMOOTH)
    for axis in range(1, values.dim()):
        n, total = values.shape[axis], torch.zeros_like(values)
        for shift in range(-min(reach, n - 1), min(reach, n - 1) + 1):
            weight, kept = math.exp(-0.5 * (shift / _SMOOTH) ** 2), n - abs(shift)
            total.narrow(axis, max(-shift, 0), kept).add_(values.narrow(axis, max(shift, 0), kept) * weight)
        values = total
    return values
