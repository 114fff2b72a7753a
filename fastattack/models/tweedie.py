"""A diffusion model as a denoiser for one noise level."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import torch
from torch import Tensor, nn

from fastattack.diffusion import Diffusion
from fastattack.diffusion import load as load_diffusion
from fastattack.diffusion.loading import EMBEDDED
from fastattack.models.weights import sha256_of, sha256_of_folder


class DiffusionDenoiser(nn.Module):
    """One step from the level of the noise to the clean image, by Tweedie's formula: y - s eps(sqrt(ab_t) y, t).

    Nothing is drawn, so it is a model like any other: differentiable, the same output for the same input. (The package
    purifies by `fastattack.Purifier`, which adds noise first and goes down in steps.)

    Args:
        diffusion: eps(x_t, t) with its schedule.
        channels: of the images.
        sigma: noise level that it assumes, 0-255 scale, > 0. The model is asked at the level of the schedule that is
            nearest to it.

    Raises:
        ValueError: a level beyond the schedule.
    """

    def __init__(self, diffusion: Diffusion, *, channels: int, sigma: float) -> None:
        super().__init__()
        if not sigma > 0:
            raise ValueError(f"sigma: wanted a noise level above 0 (0-255 scale) for diffusion, got {sigma:g}")
        self.diffusion, self.channels, self.sigma = diffusion, channels, sigma
        above = diffusion.level_of(sigma / 255)
        levels = (max(1, above - 1), above)
        self.level = min(levels, key=lambda level: abs(diffusion.sigma(level) - sigma / 255))

    def forward(self, y: Tensor) -> Tensor:
        diffusion = self.diffusion
        scale, kept = diffusion.high - diffusion.low, diffusion.schedule.alpha_bar(self.level) ** 0.5
        eps_hat = diffusion(kept * (scale * diffusion.require_images(y) + diffusion.low), self.level)
        restored: Tensor = y - diffusion.sigma(self.level) * eps_hat
        return restored


def load_denoiser(
    weights: str | Path | None, *, channels: int | None, sigma: float | None, device: str | torch.device
) -> DiffusionDenoiser:
    """What `fastattack.diffusion.load` takes (None: the embedded model) as a denoiser, in eval mode.

    Raises:
        ValueError: no sigma, or one beyond the schedule; not such weights; channels that do not fit.
        FileNotFoundError, RuntimeError: see there.
    """
    if sigma is None:
        raise ValueError("sigma: wanted a noise level (0-255 scale) for diffusion, got None")
    found = load_diffusion("embedded" if weights is None else weights, channels=channels, device=device)
    model = DiffusionDenoiser(found, channels=found.channels if channels is None else channels, sigma=sigma)
    return model.eval()


def sha256_of_diffusion(path: Path | None) -> str:
    """Of the weights of a diffusion model: a file's, all files' of a folder, the embedded one's for None."""
    if path is None:
        with resources.as_file(resources.files("fastattack") / "assets" / EMBEDDED) as packaged:
            return sha256_of(packaged)
    return sha256_of_folder(path) if path.is_dir() else sha256_of(path)
