"""accumulate on the cuda and cupy backends: the struct `Accumulate` of csrc/cuda/accumulate.cuh."""

from __future__ import annotations

from torch import Tensor

from .backend import Scalar
from .launch import Launcher, per_sample, samples


def accumulate(launcher: Launcher, total: Tensor, grad: Tensor, keep: Scalar, weight: Scalar) -> None:
    with samples(total, grad) as at:
        launcher.run(total, at, [*per_sample(keep), *per_sample(weight)], "accumulate", "")
