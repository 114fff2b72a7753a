"""diffusion_step.h in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from .backend import Scalar
from .reference_random import STREAM_DIFFUSION, numbered, sample_normals
from .reference_steps import per_sample, real_dtype


def diffusion_step(
    x: Tensor, eps_hat: Tensor | None, a: Scalar, b: Scalar, c: Scalar, seed: int, step: int, sample_ids: Tensor | None
) -> None:
    real = real_dtype(x.dtype)

    def part(coefficient: Scalar, term: Tensor) -> Tensor:
        """What is taken 0 times is not looked at, so that no NaN comes from it."""
        share = per_sample(coefficient, x, real)
        return torch.where(share == 0, 0.0, share * term.to(real))

    ids = torch.arange(x.shape[0], device=x.device) if sample_ids is None else sample_ids
    z = sample_normals(x[0].numel(), seed, ids, numbered(STREAM_DIFFUSION, step)).reshape(x.shape)
    moved = part(a, x) + part(b, x if eps_hat is None else eps_hat)
    x.copy_((moved + part(c, z)).to(x.dtype))
