"""A light convolutional trunk for the critic, and how the networks of this package start."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..guard import random_state

LEAST_SIDE = 8
_GRID = 4  # regions an axis that the features are averaged over


class ImageEncoder(nn.Module):
    """Images (B, 1 or 3, H, W), H and W >= 8, to features (B, features).

    Three convolutions of stride 2 and means over a 4 x 4 grid of regions, so that any size fits and the place of things
    still counts. About 10 million multiplications for 128 x 128 grey pixels, where DnCNN-17 has 9 thousand million.

    Args:
        channels: 1 or 3.
        features: how many numbers an image becomes.
        width: channels of the first convolution; then 2 and 3 times as many.
        seed: of the weights; torch's random state is not touched.

    Raises:
        ValueError: other channels; in a call: other images.
    """

    def __init__(self, channels: int, *, features: int = 64, width: int = 16, seed: int = 0) -> None:
        if channels not in (1, 3):
            raise ValueError(f"channels: wanted 1 or 3, got {channels!r}")
        super().__init__()
        self.channels = channels
        with random_state(torch.device("cpu")):
            self.convolutions = nn.Sequential(
                nn.Conv2d(channels, width, 5, stride=2, padding=2), nn.SiLU(),
                nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.SiLU(),
                nn.Conv2d(2 * width, 3 * width, 3, stride=2, padding=1), nn.SiLU(),
            )  # fmt: skip
            self.last = nn.Linear(3 * width * _GRID**2, features)
        self.float()  # the default type may be another
        initialise(self, torch.Generator().manual_seed(seed))

    def forward(self, images: Tensor) -> Tensor:
        if images.dim() != 4 or images.shape[1] != self.channels or min(images.shape[2:]) < LEAST_SIDE:
            raise ValueError(
                f"images: wanted (B, {self.channels}, H, W) with H and W >= {LEAST_SIDE}, got {tuple(images.shape)}"
            )
        found: Tensor = self.last(region_means(self.convolutions(images), _GRID).flatten(1))
        return found


def region_means(x: Tensor, grid: int) -> Tensor:
    """Means of (B, C, H, W) over a grid of equal regions, (B, C, grid, grid), for any H and W.

    By two matrix products, because adaptive pooling has no deterministic gradient on CUDA.
    """
    rows, columns = (_regions(side, grid, x.device).to(x.dtype) for side in x.shape[2:])
    return rows @ x @ columns.T


def _regions(side: int, grid: int, device: torch.device) -> Tensor:
    """(grid, side): the share of each pixel in the mean of each region; a border pixel counts in two.

    Made on the device: a copy to it would wait for it.
    """
    edges = torch.arange(grid + 1, dtype=torch.float64, device=device) * (side / grid)
    pixel = torch.arange(side, dtype=torch.float64, device=device)
    upper = torch.minimum(edges[1:, None], pixel + 1)
    lower = torch.maximum(edges[:-1, None], pixel)
    return (upper - lower).clamp(min=0) * (grid / side)


def initialise(net: nn.Module, generator: torch.Generator) -> None:
    """He initialisation of every layer, biases zero, from the generator alone."""
    for layer in net.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
