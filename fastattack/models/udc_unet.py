"""A small U-Net that restores images of a camera under a display; this project's own, sized for CPUs."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..guard import random_state, seed_torch
from .n2n import pad_dim


class _Block(nn.Module):
    """x + conv(relu(conv(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        more: Tensor = self.conv2(functional.relu(self.conv1(x)))
        return x + more


class UDCUNet(nn.Module):
    """y + net(y): pixels in blocks of 2 x 2 become channels, then a U-Net of residual blocks; skips are added.

    Two blocks at each level, one on the way down and one on the way up, no normalisation, no attention. The widths
    (32, 64, 128) make 0.8 million parameters, and the output sees some 100 pixels around.

    Args:
        channels: image channels.
        widths: channels of the levels; each has half the height and width of the one above.
        sigma: nothing here; a label as the other models have.

    Raises:
        ValueError: no widths, or one that is no whole number >= 1.
    """

    def __init__(
        self, channels: int = 1, *, widths: tuple[int, ...] = (32, 64, 128), sigma: float | None = None
    ) -> None:
        super().__init__()
        whole = all(isinstance(width, int) and not isinstance(width, bool) and width >= 1 for width in widths)
        if not widths or not whole:
            raise ValueError(f"widths: wanted whole numbers >= 1, channels of one level at least, got {widths!r}")
        self.channels, self.widths, self.sigma = channels, tuple(widths), sigma
        self.multiple = 2 ** len(widths)
        steps = list(pairwise(widths))
        self.enter = nn.Conv2d(4 * channels, widths[0], 3, padding=1)
        self.before = nn.ModuleList(_Block(w) for w in widths)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in steps)
        self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in steps)
        self.after = nn.ModuleList(_Block(w) for w in widths)
        self.leave = nn.Conv2d(widths[0], 4 * channels, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]

    def forward(self, y: Tensor) -> Tensor:
        """Restore ``y`` (B, channels, H, W), nominal range [0, 1]; any H and W. The same shape, not clipped.

        Sizes that are no multiple of 2^levels go on in their mirror image at the bottom and right, and are cut.
        """
        height, width = y.shape[-2:]
        h = pad_dim(pad_dim(y, -2, self.multiple), -1, self.multiple)
        h, skips = self.enter(functional.pixel_unshuffle(h, 2)), []
        for block, down in zip(self.before, self.down, strict=False):
            h = block(h)
            skips.append(h)
            h = down(h)
        h = self.after[-1](self.before[-1](h))
        for block, up, skip in zip(list(self.after)[-2::-1], list(self.up)[::-1], skips[::-1], strict=True):
            h = block(functional.interpolate(up(h), scale_factor=2.0, mode="nearest") + skip)
        residual = functional.pixel_shuffle(self.leave(h), 2)[..., :height, :width]
        restored: Tensor = y + residual
        return restored


def new_udc_unet(channels: int = 1, *, widths: tuple[int, ...] = (32, 64, 128), seed: int = 0) -> UDCUNet:
    """An untrained one whose initial weights are those of a seed; torch's random state is left as found.

    It begins as the identity: the last layer is 0.
    """
    with random_state(torch.device("cpu")):
        seed_torch(seed, torch.device("cpu"))
        return UDCUNet(channels, widths=widths)
