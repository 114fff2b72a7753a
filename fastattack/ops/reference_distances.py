"""distances in plain torch: distances.h, with float64 scaled by powers of two before it is squared."""

from __future__ import annotations

import torch
from torch import Tensor

from .reference_noise import sample_sum
from .reference_steps import power_of_two_scale, sample_max


def distances(a: Tensor, b: Tensor) -> Tensor:
    d = a.double() - b.double()
    scale = power_of_two_scale(d)
    square = sample_sum((d * scale).square())
    columns = [
        square / a[0].numel() / scale / scale,
        sample_sum(d.abs()),
        square.sqrt() / scale,
        sample_max(d.abs()),
    ]
    return torch.cat([c.reshape(-1, 1) for c in columns], 1)
