"""The defences to beat: a blur, a median, JPEG, BM3D. None draws anything, so the names of samples change nothing."""

from __future__ import annotations

import io
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ..engine import NonFiniteError
from ..ops.check import is_number
from .defended import Defended

TRUNCATE = 4.0  # the blur ends at this many sigma, as scipy.ndimage's does


class _Simple(ABC):
    """Checks, and one width of numbers: half precision is filtered in float32."""

    name: ClassVar[str]
    gradient: ClassVar[str]

    @property
    def how(self) -> str:
        """How gradients are made, in words."""
        return f"fp32, through {self.name}: {self.gradient}"

    def __call__(self, model: Callable[[Tensor], Any]) -> Defended:
        """The model behind this defence, as an nn.Module."""
        return Defended(self, model)

    def purify(self, x: Tensor, *, sample_ids: Tensor | None = None, draw: int = 0) -> Tensor:
        """Filtered images (B, C, H, W), in the type of x. ``sample_ids`` and ``draw`` change nothing.

        Raises:
            TypeError, ValueError: no such images.
            NonFiniteError: NaN or infinity, of which JPEG and BM3D can make nothing; a blur and a median pass it on.
        """
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"x: wanted a float tensor (B, C, H, W), got {getattr(x, 'dtype', type(x).__name__)}")
        if x.dim() != 4 or 0 in x.shape[1:]:
            raise ValueError(f"x: wanted images (B, C, H, W), got {tuple(x.shape)}")
        if not len(x):
            return x
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        return self._filtered(wide).to(x.dtype)

    @abstractmethod
    def _filtered(self, x: Tensor) -> Tensor:
        """Of float32 or float64 images."""


@dataclass(frozen=True)
class Blur(_Simple):
    """A Gaussian blur (cut at 4 sigma; the rim goes on as its last pixel), differentiable.

    Args:
        sigma: width in pixels, above 0.

    Raises:
        ValueError: another sigma.
    """

    sigma: float
    name: ClassVar[str] = "a Gaussian blur"
    gradient: ClassVar[str] = "full gradient"

    def __post_init__(self) -> None:
        if not is_number(self.sigma) or self.sigma <= 0:
            raise ValueError(f"sigma: wanted a width in pixels > 0, got {self.sigma!r}")

    def _filtered(self, x: Tensor) -> Tensor:
        reach = max(1, int(TRUNCATE * self.sigma + 0.5))
        line = [math.exp(-0.5 * (k / self.sigma) ** 2) for k in range(-reach, reach + 1)]
        weights = [w / math.fsum(line) for w in line]
        for dim, rim in ((2, (0, 0, reach, reach)), (3, (reach, reach, 0, 0))):
            padded, size = functional.pad(x, rim, mode="replicate"), x.shape[dim]
            x = weights[0] * padded.narrow(dim, 0, size)  # slices: a convolution could run in TF32
            for k, weight in enumerate(weights[1:], start=1):
                x = x + weight * padded.narrow(dim, k, size)
        return x


@dataclass(frozen=True)
class Median(_Simple):
    """The median of a square window (the rim goes on as its last pixel); the gradient is that of the chosen pixel.

    Memory: size**2 times the images.

    Args:
        size: edge of the window in pixels, odd, 3 or more.

    Raises:
        ValueError: another size.
    """

    size: int = 3
    name: ClassVar[str] = "a median filter"
    gradient: ClassVar[str] = "full gradient"

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 3 or not self.size % 2:
            raise ValueError(f"size: wanted an odd whole number >= 3, got {self.size!r}")

    def _filtered(self, x: Tensor) -> Tensor:
        reach = self.size // 2
        padded = functional.pad(x, (reach,) * 4, mode="replicate")
        return padded.unfold(2, self.size, 1).unfold(3, self.size, 1).flatten(-2).median(-1).values


@dataclass(frozen=True)
class Jpeg(_Simple):
    """Written as JPEG by Pillow and read again: cut to [0, 1], 8 bits, for color in 4:2:0. Gray or RGB.

    The backward pass is the identity (BPDA, Athalye et al., arXiv 1802.00420).

    Args:
        quality: Pillow's, 1 .. 100.

    Raises:
        ValueError: another quality.
    """

    quality: int = 75
    name: ClassVar[str] = "JPEG"
    gradient: ClassVar[str] = "BPDA"

    def __post_init__(self) -> None:
        if isinstance(self.quality, bool) or not isinstance(self.quality, int) or not 1 <= self.quality <= 100:
            raise ValueError(f"quality: wanted a whole number from 1 to 100, got {self.quality!r}")

    def _filtered(self, x: Tensor) -> Tensor:
        if x.shape[1] not in (1, 3):
            raise ValueError(f"x: wanted images (B, 1 or 3, H, W) for JPEG, got {tuple(x.shape)}")
        return _straight_through(x, self._coded)

    def _coded(self, x: Tensor) -> Tensor:
        levels = (x.clamp(0, 1) * 255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1)
        return torch.stack([_jpeg(image, self.quality) for image in levels]).permute(0, 3, 1, 2).to(x) / 255


@dataclass(frozen=True)
class Bm3d(_Simple):
    """BM3D by its authors' package (extra "bm3d"), image after image on the CPU: a second or more each.

    The backward pass is the identity (BPDA). Gray or RGB, at least 9 x 9 pixels (`fastattack.models.bm3d`).

    Args:
        sigma: noise level for images in [0, 1]: 25 / 255.

    Raises:
        ValueError: another sigma. RuntimeError: the package is not there or does not import.
    """

    sigma: float
    name: ClassVar[str] = "BM3D"
    gradient: ClassVar[str] = "BPDA"

    def __post_init__(self) -> None:
        if not is_number(self.sigma) or not 0 <= self.sigma <= 1:
            raise ValueError(f"sigma: wanted a noise level from 0 to 1 (images in [0, 1]), got {self.sigma!r}")
        _bm3d(self.sigma)  # a missing package is told at once

    def _filtered(self, x: Tensor) -> Tensor:
        return _straight_through(x, _bm3d(self.sigma))


@lru_cache(maxsize=8)
def _bm3d(sigma: float) -> Callable[[Tensor], Tensor]:
    from ..models.bm3d import BM3D

    return BM3D(255 * sigma)


def _jpeg(image: Tensor, quality: int) -> Tensor:
    """(H, W, 1 or 3) uint8, there and back."""
    import numpy as np
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image.squeeze(2).numpy()).save(buffer, format="JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(buffer))).reshape(image.shape)


def _straight_through(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """change(x), with the identity as its backward pass."""
    bad = (~x.detach().isfinite().flatten(1).all(1)).nonzero()
    if len(bad):
        raise NonFiniteError(f"x: wanted finite images, got NaN or infinity in sample {int(bad[0])}")
    out: Tensor = _Straight.apply(x, change)  # type: ignore[no-untyped-call]
    return out


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        return change(x.detach())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None
