"""A small classifier of scikit-learn's handwritten digits, trained in some seconds."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn


@functools.cache
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """(model, images (64, 1, 8, 8) in [0, 1], labels), the images kept from training and classified well."""
    data = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed").load_digits()
    images, labels = torch.tensor(data.images / 16, dtype=torch.float32)[:, None], torch.tensor(data.target)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 64), nn.ReLU(),
            nn.Linear(64, 10),
        )  # fmt: skip
        optimiser = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(12):
            for rows in torch.randperm(1400).split(64):
                optimiser.zero_grad()
                nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
                optimiser.step()
    model.eval()
    right = (model(images[1400:]).argmax(1) == labels[1400:]).nonzero()[:64, 0] + 1400
    return model, images[right], labels[right]


def margin(output: Tensor, target: Tensor) -> Tensor:
    """The best other logit less the label's: above 0 is fooled."""
    label = torch.zeros_like(output, dtype=torch.bool).scatter_(1, target[:, None], True)
    return output.masked_fill(label, float("-inf")).amax(1) - output.gather(1, target[:, None])[:, 0]
