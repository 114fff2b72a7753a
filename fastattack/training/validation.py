"""How good a denoiser is, left alone and under attack."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..attacks.denoising import DenoisingPGD
from ..engine import Model
from ..guard import left_as_found
from ..images import central
from ..job import add_noise
from ..metrics import psnr
from .config import require_number, require_whole
from .data import require_image
from .strategies import step_of


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Mean PSNR of a denoiser on images with N(0, sigma^2) noise of a fixed seed, as it is and under DenoisingPGD.

    The model runs in eval mode and in its own number type, image by image; its flags and torch's random state are left
    as found. Nothing is clipped.

    Attributes:
        images: float tensors (C, H, W) of any sizes, nominal range [0, 1].
        sigma: on the scale of the images (25/255).
        eps, steps, preserve_noise: of the attack; steps = 0 leaves it out.
        seed: of noise and attack.
        crop: edge of a centre crop of each image, in pixels; None takes them whole.

    Raises:
        ValueError, TypeError: an option or image that cannot be; it is named.
    """

    images: Sequence[Tensor] = field(repr=False)
    sigma: float
    eps: float = 5 / 255
    steps: int = 5
    preserve_noise: bool = True
    seed: int = 0
    crop: int | None = None

    def __post_init__(self) -> None:
        if not 0 < require_number(self.sigma, "sigma") < math.inf:
            raise ValueError(f"sigma: wanted a standard deviation > 0, got {self.sigma!r}")
        if self.crop is not None:
            require_whole(self.crop, "crop", 1)
        if len(self.images) == 0:
            raise ValueError("images: wanted at least one to validate on, got none")
        for k, image in enumerate(self.images):
            require_image(image, f"images[{k}]", self.crop or 1)
        if self.steps:
            self._attack(abs)  # complains about its options

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """{"valid": dB, "attacked": dB}, means over the images."""
        where = next(model.parameters()).device
        totals = {"valid": 0.0, "attacked": 0.0} if self.steps else {"valid": 0.0}
        with left_as_found(model, where, eval_mode=True), torch.no_grad():
            for index, image in enumerate(self.images):
                clean = central(image, self.crop)[None].cpu()
                noisy = add_noise(clean, 255 * self.sigma, self.seed, index).to(where)
                clean = clean.to(where)
                totals["valid"] += psnr(model(noisy), clean).item()
                if self.steps:
                    attacked = self._attack(model)(noisy, clean, sample_ids=torch.tensor([index], device=where))
                    totals["attacked"] += psnr(model(attacked), clean).item()
        return {name: total / len(self.images) for name, total in totals.items()}

    def _attack(self, model: Model) -> DenoisingPGD:
        return DenoisingPGD(
            model, eps=self.eps, steps=self.steps, step=step_of(self.eps, self.steps),
            preserve_noise=self.preserve_noise, seed=self.seed,
        )  # fmt: skip
