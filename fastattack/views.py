"""Random transformations through which an attack sees its input (`view=`), and kernels that smooth its gradients.

A view is any differentiable function (x, generator) -> x' of a batch; it draws from the given CPU generator alone, as
much for a large batch as for a small one. One that draws for each sample has an attribute ``per_sample_ids = True`` and
is called with ``ids=`` (B,), the names of the samples. A target that is an image like x goes through the same view with
the same draws, so that restorers can be attacked too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .ops.reference_random import STREAM_VIEW, sample_normals


def _draw(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


@dataclass(frozen=True, kw_only=True)
class Diversity:
    """Random resizing and zero padding (DI-FGSM, Xie et al., arXiv 1803.06978), one draw for the batch.

    The batch shrinks to between ``smallest`` of its height and width and the full size and is padded back at a random
    place; the paper enlarges 299 to at most 330 pixels instead, which changes the model's input size.

    Attributes:
        smallest: of the share of height and width, in (0, 1].
        probability: of a transformation; else the batch passes as it is.
    """

    smallest: float = 0.9
    probability: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.smallest <= 1:
            raise ValueError(f"smallest: wanted a share in (0, 1], got {self.smallest!r}")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability: wanted a number in [0, 1], got {self.probability!r}")

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        if x.dim() != 4:
            raise ValueError(f"input: wanted images (B, C, H, W) for resizing, got {x.dim()} dimensions")
        chance, share, down, right = (_draw(generator) for _ in range(4))
        if chance >= self.probability:
            return x
        height, width = x.shape[-2:]
        share = self.smallest + (1 - self.smallest) * share
        new_height, new_width = max(1, round(height * share)), max(1, round(width * share))
        small = functional.interpolate(x, (new_height, new_width), mode="bilinear", align_corners=False)
        top, left = int(down * (height - new_height + 1)), int(right * (width - new_width + 1))
        return functional.pad(small, (left, width - new_width - left, top, height - new_height - top))


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Gaussian noise of standard deviation ``std`` on the input: for models behind randomised smoothing.

    Every sample has noise of its own, Philox of (generator, sample id) in float32: no batch split changes it.
    """

    std: float

    def __post_init__(self) -> None:
        if not self.std >= 0:
            raise ValueError(f"std: wanted a number >= 0, got {self.std!r}")

    def __call__(self, x: Tensor, generator: torch.Generator, ids: Tensor | None = None) -> Tensor:
        seed = int(torch.randint(2**62, (), generator=generator))
        names = torch.arange(len(x), device=x.device) if ids is None else ids
        noise = sample_normals(x[0].numel(), seed, names, STREAM_VIEW) if len(x) else x.flatten(1)
        return x + self.std * noise.reshape(x.shape).to(x.dtype)

    moves_target = False
    per_sample_ids = True


def smoothing_kernel(size: int = 15, *, kind: str = "gaussian", sigma: float | None = None) -> Tensor:
    """Kernel (size, size) that sums to 1, for ``smooth=`` (TI-FGSM, Dong et al., arXiv 1904.02884, section 3.3).

    Args:
        size: odd number of pixels.
        kind: "gaussian", "uniform" or "linear".
        sigma: of the Gaussian in pixels; None means size / 5 (3 for the paper's 15).

    Raises:
        ValueError: an even or negative size, another kind.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1 or size % 2 == 0:
        raise ValueError(f"size: wanted an odd whole number >= 1, got {size!r}")
    place = torch.arange(size, dtype=torch.float64) - size // 2
    if kind == "gaussian":
        spread = size / 5 if sigma is None else sigma
        if not spread > 0:
            raise ValueError(f"sigma: wanted a number > 0, got {sigma!r}")
        line = torch.exp(-0.5 * (place / spread).square())
    elif kind == "uniform":
        line = torch.ones_like(place)
    elif kind == "linear":
        line = 1 - place.abs() / (size // 2 + 1)
    else:
        raise ValueError(f"kind: wanted 'gaussian', 'uniform' or 'linear', got {kind!r}")
    line = line / line.sum()
    return torch.outer(line, line)
