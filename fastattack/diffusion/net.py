"""A small U-Net for eps(x_t, t), sized for CPUs: what the embedded diffusion model is."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

GROUP = 8  # channels normalised together


def time_features(t: Tensor, width: int) -> Tensor:
    """Sines and cosines (B, width) of step numbers (B,), periods 2 pi to 2 pi 10^4 (arXiv 2006.11239)."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000.0) / half * torch.arange(half, device=t.device, dtype=torch.float32))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], 1)


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), the second norm scaled and shifted by the time."""

    def __init__(self, width: int, time: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(width // GROUP, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.time = nn.Linear(time, 2 * width)
        self.norm2 = nn.GroupNorm(width // GROUP, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.time(time)[:, :, None, None].chunk(2, 1)
        h = self.conv1(functional.silu(self.norm1(x)))
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        out: Tensor = x + self.conv2(functional.silu(h))
        return out


class DiffusionUNet(nn.Module):
    """eps(x_t, t): the standard normal noise in x_t (B, C, H, W), H and W multiples of ``multiple``.

    One block of two convolutions at each level on the way down and up, two blocks at the lowest; skips are added. No
    attention, so the time grows with the number of pixels.

    Args:
        channels: of the images.
        widths: channels of the levels, multiples of 8; each level has half the height and width of the one above.
    """

    def __init__(self, channels: int = 1, widths: tuple[int, ...] = (32, 64, 128)) -> None:
        super().__init__()
        if not widths or any(w < GROUP or w % GROUP for w in widths):
            raise ValueError(f"widths: wanted multiples of {GROUP}, one a level, got {widths}")
        self.channels, self.widths, self.multiple = channels, tuple(widths), 2 ** (len(widths) - 1)
        time = 4 * widths[0]
        self.time = nn.Sequential(nn.Linear(widths[0], time), nn.SiLU(), nn.Linear(time, time), nn.SiLU())
        self.enter = nn.Conv2d(channels, widths[0], 3, padding=1)
        steps = list(pairwise(widths))
        self.before = nn.ModuleList(ResBlock(w, time) for w in widths)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in steps)
        self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in steps)
        self.after = nn.ModuleList(ResBlock(w, time) for w in widths)
        self.norm = nn.GroupNorm(widths[0] // GROUP, widths[0])
        self.leave = nn.Conv2d(widths[0], channels, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        time = self.time(time_features(t, self.widths[0]).to(x.dtype))
        h, skips = self.enter(x), []
        for block, down in zip(self.before, self.down, strict=False):
            h = block(h, time)
            skips.append(h)
            h = down(h)
        h = self.after[-1](self.before[-1](h, time), time)
        for block, up, skip in zip(list(self.after)[-2::-1], list(self.up)[::-1], skips[::-1], strict=True):
            h = block(functional.interpolate(up(h), scale_factor=2.0, mode="nearest") + skip, time)
        out: Tensor = self.leave(functional.silu(self.norm(h)))
        return out
