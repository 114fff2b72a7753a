"""The U-Net of Noise2Noise (Lehtinen et al. 2018, arXiv 1803.04189)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

MULTIPLE = 32


def _convs(*widths: int) -> list[nn.Module]:
    """Conv-ReLU pairs through the given widths."""
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU(inplace=True)]
    return layers


def _up(width: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(width, width, 3, stride=2, padding=1, output_padding=1)


def pad_dim(y: Tensor, dim: int, multiple: int) -> Tensor:
    """Reflect `y` at its far end of `dim` until that size is a multiple; a size of 1 is repeated instead.

    Built from flips and joins: its gradient is deterministic on every device, which that of F.pad is not.
    """
    while need := -y.shape[dim] % multiple:
        size = y.shape[dim]
        more = min(need, max(size - 1, 1))
        start = max(size - 1 - more, 0)
        y = torch.cat((y, y.narrow(dim, start, more).flip(dim)), dim=dim)
    return y


class N2NUNet(nn.Module):
    """Five-level U-Net, RGB, blind; the output is the image.

    Names and layout are those of the public PyTorch checkpoints, in which the encoder levels 2 to 5 share one block
    and so do the decoder levels 2 to 4.

    Args:
        channels: image channels (published weights: 3).
        sigma: noise level (0-255 scale) it is trained for; None when blind or unknown. Only a label.
    """

    def __init__(self, channels: int = 3, *, sigma: float | None = None) -> None:
        super().__init__()
        self.channels = channels
        self.sigma = sigma
        self._block1 = nn.Sequential(*_convs(channels, 48, 48), nn.MaxPool2d(2))
        self._block2 = nn.Sequential(*_convs(48, 48), nn.MaxPool2d(2))
        self._block3 = nn.Sequential(*_convs(48, 48), _up(48))
        self._block4 = nn.Sequential(*_convs(96, 96, 96), _up(96))
        self._block5 = nn.Sequential(*_convs(144, 96, 96), _up(96))
        last = nn.Conv2d(32, channels, 3, padding=1)
        self._block6 = nn.Sequential(*_convs(96 + channels, 64, 32), last, nn.LeakyReLU(0.1))

    def forward(self, y: Tensor) -> Tensor:
        """Denoise ``y`` [B, channels, H, W], nominal range [0, 1]; any H and W. Returns the same shape, not clipped.

        Sizes that are no multiple of 32 are reflect-padded at the bottom and right, and the result is cropped.
        """
        height, width = y.shape[-2:]
        y = pad_dim(pad_dim(y, -2, MULTIPLE), -1, MULTIPLE)
        skips = [y, self._block1(y)]
        for _ in range(3):
            skips.append(self._block2(skips[-1]))
        out = self._block3(self._block2(skips[-1]))
        out = self._block4(torch.cat((out, skips.pop()), dim=1))
        while len(skips) > 1:
            out = self._block5(torch.cat((out, skips.pop()), dim=1))
        restored: Tensor = self._block6(torch.cat((out, skips.pop()), dim=1))
        return restored[..., :height, :width]
