"""The launches of distances on cuda and cupy."""

from __future__ import annotations

import torch
from torch import Tensor

from .launch import Launcher, doubles, pack, samples

_SUMS = 5  # doubles in DistanceSums


def distances(launcher: Launcher, a: Tensor, b: Tensor) -> Tensor:
    with samples(a, b, summed=True) as at, launcher.session(a.device) as launch:
        partials = doubles(a, at.batch * at.tiles * _SUMS)
        out = torch.empty((at.batch, 4), dtype=torch.float64, device=a.device)
        packed = pack([*at.words, partials.data_ptr(), out.data_ptr()])
        launch("distances", f"distances_sums_kernel<{at.storage}>", at.batch * at.tiles, packed)
        launch("distances", f"distances_kernel<{at.storage}>", at.batch, packed)
    return out
