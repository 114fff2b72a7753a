"""diffusion_step on the cuda and cupy backends: the struct `DiffusionStep` of csrc/cuda/diffusion_step.cuh."""

from __future__ import annotations

from torch import Tensor

from .backend import Scalar
from .launch import Launcher, per_sample, samples


def diffusion_step(
    launcher: Launcher,
    x: Tensor,
    eps_hat: Tensor | None,
    a: Scalar,
    b: Scalar,
    c: Scalar,
    seed: int,
    step: int,
    sample_ids: Tensor | None,
) -> None:
    with samples(x, x if eps_hat is None else eps_hat, keep_order=True) as at:
        words = [*per_sample(a), *per_sample(b), *per_sample(c)]
        words += [seed, 0 if sample_ids is None else sample_ids.data_ptr(), step]
        launcher.run(x, at, words, "diffusion_step", "")
