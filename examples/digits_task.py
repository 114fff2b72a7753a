"""A task model for `fastattack attack --attack miga --task examples/digits_task.py:classifier`, and images for it.

python examples/digits_task.py --out out/digits writes some digits as PNG files, and labels.json with what they are.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from fastattack.files import write_atomic
from fastattack.images import save_png

SIZE = 32
CONTRAST = 0.3  # black ink on white paper hides no other digit under so little noise
HELD_OUT = 360  # digits that the classifier does not learn from


class Digits(nn.Module):
    """Says which of ten digits an image of SIZE x SIZE pixels shows: logits (B, 10)."""

    classes = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(SIZE * SIZE, 128), nn.ReLU(), nn.Linear(128, len(self.classes))
        )

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1:] != (1, SIZE, SIZE):
            raise ValueError(f"wanted gray images of {SIZE} x {SIZE} pixels, got {tuple(images.shape[1:])}")
        logits: Tensor = self.layers(images)
        return logits


def digits() -> tuple[Tensor, Tensor]:
    """All 1797 digits (real, 8 x 8, embedded in scikit-learn) as pale images (N, 1, SIZE, SIZE), and their labels."""
    found = load_digits()
    small = torch.tensor(found.images / 16, dtype=torch.float32)[:, None]
    large = nn.functional.interpolate(small, size=(SIZE, SIZE), mode="bicubic", align_corners=False).clamp(0, 1)
    return 0.5 + CONTRAST * (large - 0.5), torch.tensor(found.target)


def classifier() -> nn.Module:
    """Trained on slightly noisy digits in a few seconds, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Digits()
    images, labels = (part[HELD_OUT:] for part in digits())
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        for rows in torch.randperm(len(images), generator=generator).split(64):
            noise = 0.05 * torch.randn(images[rows].shape, generator=generator)
            loss = nn.functional.cross_entropy(model(images[rows] + noise), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model.eval()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/digits"))
    parser.add_argument("--count", type=int, default=12, help="how many of the digits that were not learnt from")
    options = parser.parse_args(argv)
    if not 1 <= options.count <= HELD_OUT:
        parser.error(f"count: wanted 1 to {HELD_OUT}, got {options.count}")
    images, labels = (part[: options.count] for part in digits())
    names = [f"digit{k:03d}" for k in range(options.count)]
    for name, image in zip(names, images, strict=True):
        save_png(options.out / f"{name}.png", image)
    known = dict(zip(names, labels.tolist(), strict=True))
    write_atomic(options.out / "labels.json", (json.dumps(known, indent=1) + "\n").encode())
    print(f"{options.count} digits and labels.json in {options.out}")


if __name__ == "__main__":
    main()
