"""What median and centre smoothing share: radii, the normal distribution, and the outputs of an image's copies."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .batches import Model, outputs
from .copies import Copies


def radii_of(eps: float | Sequence[float]) -> list[float]:
    found = [eps] if isinstance(eps, (int, float)) else list(eps)
    for radius in found:
        if isinstance(radius, bool) or not isinstance(radius, (int, float)) or not 0 < radius < math.inf:
            raise ValueError(f"eps: wanted l2 radii > 0, got {eps!r}")
    if not found:
        raise ValueError("eps: wanted at least one radius, got none")
    return [float(radius) for radius in found]


def ndtr(z: float) -> float:
    return float(torch.special.ndtr(torch.tensor(z, dtype=torch.float64)))


def ndtri(p: float) -> float:
    return float(torch.special.ndtri(torch.tensor(p, dtype=torch.float64)))


def collect(model: Model, copies: Copies, max_batch: int | None) -> Tensor:
    """All outputs (n, ...) for the copies of one image."""
    kept: Tensor | None = None
    for first, found in outputs(model, copies, max_batch):
        if not found.is_floating_point():
            raise TypeError(f"model: wanted floats, got {found.dtype}")
        if kept is None:
            kept = found.new_empty((len(copies), *found.shape[1:]))
        kept[first : first + len(found)] = found
    assert kept is not None
    return kept
