"""Adversarial training written for torchattacks, switched over by its one import.

python examples/torchattacks_training.py [--plain]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fastattack.compat.torchattacks as torchattacks  # was: import torchattacks

EPS, ALPHA = 0.15, 0.05


def digits(held_out: int = 360) -> tuple[TensorDataset, Tensor, Tensor]:
    """Real digits of 8 x 8 pixels in [0, 1]: a data set to train on, and images and labels to judge by."""
    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(bunch.target, dtype=torch.int64)
    return TensorDataset(images[held_out:], labels[held_out:]), images[:held_out], labels[:held_out]


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, stride=2, padding=1),
        nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 16, 10),
    )  # fmt: skip


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    model.eval()
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).float().mean())


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--plain", action="store_true", help="train on the images as they are, to compare")
    options = parser.parse_args(argv)
    torch.manual_seed(0)
    data, images, labels = digits()
    model = network()
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    attack = torchattacks.PGD(model, eps=EPS, alpha=ALPHA, steps=5)
    for _ in range(options.epochs):
        model.train()
        for x, y in DataLoader(data, batch_size=64, shuffle=True):
            x = x if options.plain else attack(x, y)
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimiser.step()
    attacked = torchattacks.PGD(model, eps=EPS, alpha=ALPHA, steps=20)(images, labels)
    found = {"clean": accuracy(model, images, labels), "attacked": accuracy(model, attacked, labels)}
    print(f"accuracy: {found['clean']:.1%} on clean images, {found['attacked']:.1%} on attacked ones")
    return found


if __name__ == "__main__":
    main()
