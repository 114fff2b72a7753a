"""What `LLMMorph` is made of beside the language model, for two and three dimensions."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

CONV: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
_LINEAR = {2: "bilinear", 3: "trilinear"}
FREQUENCIES = 6


def finer(image: Tensor, factor: int) -> Tensor:
    """Linear, voxels of the coarse grid in the middle of their fine ones."""
    if factor == 1:
        return image
    mode = _LINEAR[image.dim() - 2]
    return functional.interpolate(image, scale_factor=float(factor), mode=mode, align_corners=False)


def finer_field(field: Tensor, factor: int) -> Tensor:
    """A field in voxels of the finer grid."""
    return finer(field, factor) * factor


def places(shape: tuple[int, ...], *, like: Tensor) -> Tensor:
    """(N, 2 d FREQUENCIES): sines and cosines of each token's place on its grid, periods of 4, 8, ... tokens."""
    axes = [torch.arange(n, device=like.device, dtype=like.dtype) for n in shape]
    grid = torch.stack([axis.reshape(-1) for axis in torch.meshgrid(*axes, indexing="ij")], 1)
    powers = torch.arange(FREQUENCIES, device=like.device, dtype=like.dtype)
    angles = (grid[:, :, None] * (torch.pi / 2 * 0.5**powers)).flatten(1)
    return torch.cat([angles.sin(), angles.cos()], 1)


def norm(channels: int) -> nn.Module:
    """Over groups of about eight channels and all voxels; each sample for itself, in training mode too."""
    groups = max(g for g in range(1, max(1, channels // 8) + 1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


class _Residual(nn.Module):
    """x + conv(act(norm(conv(x))))."""

    def __init__(self, dims: int, width: int) -> None:
        super().__init__()
        self.conv1 = CONV[dims](width, width, 3, padding=1)
        self.norm = norm(width)
        self.conv2 = CONV[dims](width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        more: Tensor = self.conv2(functional.leaky_relu(self.norm(self.conv1(x)), 0.1))
        return x + more


class Encoder(nn.Module):
    """Features of one image at each scale, finest first.

    Steps from scale to scale are convolutions whose kernel is their stride, so that every grid lies in the middle of
    the voxels below it, as `finer` has it.
    """

    def __init__(self, dims: int, widths: tuple[int, ...], finest: int) -> None:
        super().__init__()
        steps = [(1, widths[0], finest), *((a, b, 2) for a, b in pairwise(widths))]
        self.down = nn.ModuleList(CONV[dims](a, b, step, stride=step) for a, b, step in steps)
        self.blocks = nn.ModuleList(_Residual(dims, width) for width in widths)

    def forward(self, image: Tensor) -> list[Tensor]:
        found, h = [], image
        for down, block in zip(self.down, self.blocks, strict=True):
            h = block(down(h))
            found.append(h)
        return found


class Enter(nn.Module):
    """The first adapter: features (B, C, *grid) -> tokens (B, N, width) of about the size that the blocks know."""

    def __init__(self, dims: int, channels: int, width: int, scale: float) -> None:
        super().__init__()
        self.values = nn.Linear(channels, width)
        self.places = nn.Linear(2 * dims * FREQUENCIES, width)
        self.norm = nn.LayerNorm(width)
        nn.init.constant_(self.norm.weight, scale)

    def forward(self, features: Tensor) -> Tensor:
        where = places(tuple(features.shape[2:]), like=features)
        tokens: Tensor = self.norm(self.values(features.flatten(2).transpose(1, 2)) + self.places(where))
        return tokens


class Leave(nn.Module):
    """The adapter of one scale: tokens (B, N, width) -> features (B, C, *grid)."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.values = nn.Linear(width, channels)

    def forward(self, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        values = functional.leaky_relu(self.values(self.norm(tokens)), 0.1)
        return values.transpose(1, 2).reshape(tokens.shape[0], -1, *grid)


class Head(nn.Module):
    """Features -> a field of their grid, 0 at first."""

    def __init__(self, dims: int, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = CONV[dims](channels, width, 3, padding=1)
        self.conv2 = CONV[dims](width, width, 3, padding=1)
        self.last = CONV[dims](width, dims, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.leaky_relu(self.conv1(x), 0.1)
        h = functional.leaky_relu(self.conv2(h), 0.1)
        out: Tensor = self.last(h)
        return out


class PlainBlocks(nn.Module):
    """Transformer blocks (norm first, GELU, no dropout) and a final norm, in the place of a language model's."""

    def __init__(self, width: int, *, blocks: int, heads: int) -> None:
        super().__init__()
        self.width = self.out_width = width
        self.scale = 1.0
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        for block in self.blocks:
            tokens = block(tokens)
        out: Tensor = self.norm(tokens)
        return out


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ask, self.answer = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.rise, self.fall = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        parts = self.ask(self.norm1(tokens)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        tokens = tokens + self.answer(seen.transpose(1, 2).flatten(2))
        more: Tensor = self.fall(functional.gelu(self.rise(self.norm2(tokens))))
        return tokens + more
