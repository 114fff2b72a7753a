"""ResNet-18 (He et al., arXiv 1512.03385) in the form for CIFAR: random weights, batch norms with statistics."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != width:
            self.shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        return functional.relu(self.bn2(self.conv2(out)).add_(self.shortcut(x)), inplace=True)


class ResNet18(nn.Module):
    """``large``: with the stem for images of ImageNet's size, which takes every fourth pixel."""

    def __init__(self, classes: int = 10, *, large: bool = False) -> None:
        super().__init__()
        self.large = large
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False) if large else nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        widths, layers = [64, 64, 128, 256, 512], []
        for k, (before, width) in enumerate(pairwise(widths)):
            layers += [Block(before, width, 1 if k == 0 else 2), Block(width, width, 1)]
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        out = functional.max_pool2d(out, 3, 2, 1) if self.large else out
        logits: Tensor = self.linear(self.layers(out).mean((2, 3)))
        return logits


def resnet18(seed: int = 0, *, large: bool = False) -> ResNet18:
    """In eval mode, with statistics of random images so that no layer dies."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = ResNet18(large=large)
        with torch.no_grad():
            for _ in range(3):
                model(torch.rand(16, 3, 32, 32))
    return model.eval()
