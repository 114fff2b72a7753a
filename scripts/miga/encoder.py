"""Two encoders of photographs, trained to tell from which of 400 images a crop is; no attack sees the first."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastattack.images import find_images, read_image

SHARED = Path(__file__).resolve().parents[3] / "shared"
TRAIN = SHARED / "data" / "train400"
CROP, IMAGES = 64, 400


class Gray(nn.Module):
    """(B, C, H, W) to (B, 1, H, W), the mean over channels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1, keepdim=True)


def encoder(seed: int) -> nn.Sequential:
    """The one that no attack sees: images to logits (B, 400), through 64 features."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return nn.Sequential(
            Gray(), nn.Conv2d(1, 32, 5, 2, 2), nn.ReLU(), nn.Conv2d(32, 48, 3, 2, 1), nn.ReLU(),
            nn.Conv2d(48, 64, 3, 2, 1), nn.ReLU(), nn.Conv2d(64, 96, 3, 2, 1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(384, 64), nn.ReLU(), nn.Linear(64, IMAGES),
        )  # fmt: skip


def surrogate(seed: int) -> nn.Sequential:
    """The one that an attack on an unknown task uses: of another form and seed."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed + 1)
        return nn.Sequential(
            Gray(), nn.Conv2d(1, 24, 3, 2, 1), nn.GELU(), nn.Conv2d(24, 48, 3, 2, 1), nn.GELU(),
            nn.Conv2d(48, 96, 3, 2, 1), nn.GELU(), nn.AvgPool2d(2), nn.Conv2d(96, 96, 3, 1, 1), nn.GELU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 64), nn.GELU(), nn.Linear(64, IMAGES),
        )  # fmt: skip


ENCODERS: dict[str, Callable[[int], nn.Sequential]] = {"encoder": encoder, "surrogate": surrogate}


def embed(model: nn.Module, images: Tensor) -> Tensor:
    """(B, 1 or 3, H, W) to (B, 64) of length 1: the features before the logits."""
    assert isinstance(model, nn.Sequential)
    return functional.normalize(model[:-1](images))


def crops(images: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random crops, half of them mirrored, of changed contrast, with noise of sigma up to 15; and whose they are."""
    which = torch.randint(len(images), (count,), generator=generator)
    tops, lefts = torch.randint(images.shape[-1] - CROP + 1, (2, count), generator=generator).tolist()
    found = [images[i][:, t : t + CROP, s : s + CROP] for i, t, s in zip(which, tops, lefts, strict=True)]
    x = torch.stack([f.flip(2) if k % 2 else f for k, f in enumerate(found)])
    gain, level, shift = torch.rand(3, count, 1, 1, 1, generator=generator)
    return x * (0.8 + 0.4 * gain) + 0.2 * (shift - 0.5) + 15 / 255 * level * torch.randn(
        x.shape, generator=generator
    ), which


def train_encoder(kind: str, *, steps: int, seed: int) -> nn.Module:
    """Adam on batches of 32, a cosine from 2e-3."""
    images = torch.stack([read_image(path, 1) for path in find_images(TRAIN)[:IMAGES]])
    model, generator = ENCODERS[kind](seed), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 2e-3 * 0.5 * (1 + math.cos(math.pi * step / steps))
        x, which = crops(images, 32, generator)
        optimiser.zero_grad()
        functional.cross_entropy(model(x), which).backward()
        optimiser.step()
    return model.eval()
