"""x <- a x + b eps_hat + c z in plain torch, until fa.ops.diffusion_step_ is here."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops.reference_random import sample_normals


@torch.no_grad()
def diffusion_step_(
    x: Tensor,
    eps_hat: Tensor | None,
    *,
    coefficients: tuple[float, float, float],
    seed: int,
    step: int = 0,
    sample_ids: Tensor | None = None,
) -> Tensor:
    a, b, c = coefficients
    ids = torch.arange(len(x), device=x.device) if sample_ids is None else sample_ids
    out = a * x if a != 0 else torch.zeros_like(x)
    if eps_hat is not None and b != 0:
        out = out + b * eps_hat
    if c != 0:
        z = sample_normals(x[0].numel(), seed, ids, 3 + (step << 8)).reshape(x.shape).to(x.dtype)
        out = out + c * z
    return x.copy_(out)
