"""Typical-set training (arXiv 2412.05943) in a loop of your own: python examples/plain_loop.py"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import chain, repeat
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader

import fastattack as fa
from fastattack.images import find_images, read_image

PACKAGED = Path(fa.__file__).parent / "assets" / "images"
SIGMA = 25 / 255


def tiles(image: Tensor, size: int = 32) -> Tensor:
    """(C, H, W) -> (N, C, size, size), side by side."""
    return image.unfold(1, size, size).unfold(2, size, size).flatten(1, 2).transpose(0, 1)


def train(model: nn.Module, loader: DataLoader[Tensor], *, steps: int) -> float:
    """Returns the loss of the last step."""
    device = next(model.parameters()).device
    strategy = fa.training.ts(fa.TypicalSetSampler(sigma=SIGMA, spectrum="adversarial", seed=0))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss = torch.zeros(())
    for _, clean in zip(range(steps), chain.from_iterable(repeat(loader)), strict=False):
        inputs, targets = strategy(model, clean.to(device))  # hat, pgd or plain of fa.training fit here as well
        loss = mse_loss(model(inputs), targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return loss.item()


def quality(model: nn.Module, clean: Tensor) -> tuple[float, float]:
    """PSNR in dB on an image with Gaussian noise, and on the same one attacked within its noise."""
    noisy = clean + SIGMA * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1)).to(clean.device)
    attacked = fa.DenoisingPGD(model, eps=5 / 255, steps=10)(noisy, clean)
    with torch.no_grad():
        return fa.metrics.psnr(model(noisy), clean).item(), fa.metrics.psnr(model(attacked), clean).item()


def main(argv: Sequence[str] | None = None) -> tuple[float, float]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--data", type=Path, default=PACKAGED, help="two or more images; the last is held out")
    options = parser.parse_args(argv)
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    *images, held_out = [read_image(path, channels=1) for path in find_images(options.data)]
    loader = DataLoader(list(torch.cat([tiles(image) for image in images])), batch_size=8, shuffle=True)
    model = fa.models.DnCNN(depth=6, features=24).to(device)
    loss = train(model, loader, steps=options.steps)
    found = quality(model, held_out[None].to(device))
    print(f"loss {loss / SIGMA**2:.3f} of the noise; noisy {found[0]:.2f} dB, attacked {found[1]:.2f} dB")
    return found


if __name__ == "__main__":
    main()
