"""Images from nothing but noise, and how well a model fits its schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from .. import ops
from .model import Diffusion
from .process import Process
from .schedule import evenly


@torch.no_grad()
def sample(
    diffusion: Diffusion, count: int, *, size: int, steps: int | None = None, eta: float = 1.0, seed: int = 0
) -> Tensor:
    """Samples (count, C, size, size), nominal range [0, 1], by the whole reverse process.

    Args:
        steps: None: one for each level.
        eta: 1 for DDPM, 0 for DDIM.
        seed: 0 <= seed < 2**64.
    """
    schedule = diffusion.schedule
    levels = evenly(schedule.steps, 0, steps or schedule.steps)
    process = Process(diffusion, levels, eta)
    device = next((p.device for p in diffusion.parameters()), torch.device("cpu"))
    ids = torch.arange(count, device=device)
    x = torch.empty(count, diffusion.channels, size, size, device=device)
    ops.diffusion_step_(x, None, coefficients=(0.0, 0.0, 1.0), seed=seed, step=0, sample_ids=ids)
    for k in range(process.steps):
        x = process.step(k, x, x, seed, ids, overwrite=True)
    return process.leave(x, seed, ids)


@torch.no_grad()
def noise_losses(diffusion: Diffusion, clean: Tensor, levels: Iterable[int], *, seed: int = 0) -> dict[int, float]:
    """Level -> mean squared error of the predicted noise on clean images (B, C, H, W) in [0, 1].

    Below 1 at every level where model, schedule and scale belong together: the prediction 0 has 1. A schedule that
    does not fit the model shows here.
    """
    found = {}
    origin = Process(diffusion, (0,)).scaled(diffusion.require_images(clean))
    for level in levels:
        share = diffusion.schedule.alpha_bar(level)
        z = torch.empty_like(origin)
        ops.diffusion_step_(z, None, coefficients=(0.0, 0.0, 1.0), seed=seed, step=level)
        noisy = math.sqrt(share) * origin + math.sqrt(1 - share) * z
        found[level] = float((diffusion(noisy, level) - z).square().mean())
    return found


__all__ = ["noise_losses", "sample"]
