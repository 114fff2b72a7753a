"""How little two images agree, whatever their contrasts: MIND-SSC, normalised mutual information, local correlation.

Each is made before use, ``mind_ssc()``, and called with (moving as warped, fixed), both (B, C, *spatial) in 2D or 3D;
it gives one distance for each sample, (B,): smaller is more alike, so that training goes down it. Several channels are
compared one by one; the mean counts. All are symmetric, differentiable in both images, and no sample's distance depends
on the others. Computed in float32 at least.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..ops.check import is_number
from .fields import require_floating


def _whole(value: Any, name: str, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: wanted a whole number >= {least}, got {value!r}")


def _images(moving: Any, fixed: Any) -> tuple[Tensor, Tensor]:
    """Both as (B * C, 1, *spatial), of one dtype, float32 at least."""
    for image, name in ((moving, "moving"), (fixed, "fixed")):
        require_floating(image, name)
    if moving.shape != fixed.shape:
        raise ValueError(f"moving: wanted the shape {tuple(fixed.shape)} that fixed has, got {tuple(moving.shape)}")
    if fixed.dim() not in (4, 5) or fixed.numel() == 0:
        raise ValueError(f"fixed: wanted images (B, C, H, W) or (B, C, D, H, W), got {tuple(fixed.shape)}")
    wide = torch.promote_types(torch.promote_types(moving.dtype, fixed.dtype), torch.float32)
    return moving.to(wide).flatten(0, 1).unsqueeze(1), fixed.to(wide).flatten(0, 1).unsqueeze(1)


def _by_sample(found: Tensor, moving: Tensor) -> Tensor:
    """What was found for (B * C, ...) to the mean of each sample, (B,)."""
    return found.reshape(moving.shape[0], -1).mean(1)


def _window_means(t: Tensor, window: int) -> Tensor:
    """(B, C, *spatial) to the means over the cubes of ``window`` voxels that lie inside, axis by axis."""
    for axis in range(2, t.dim()):  # slices, for cuDNN's convolutions run in TF32 by default, and pooling is slower
        count = t.shape[axis] - window + 1
        total = t.narrow(axis, 0, count)
        for i in range(1, window):
            total = total + t.narrow(axis, i, count)
        t = total / window
    return t


@dataclass(frozen=True, kw_only=True)
class mind_ssc:
    """Mean squared difference of the images' self-similarity contexts (Heinrich et al., MICCAI 2013).

    The context of a voxel compares patches around it with each other, those of two neighbours on different axes: 4
    channels in 2D, 12 in 3D. Each is exp(-(D - least D of the voxel) / V), D the mean squared difference of two patches
    and V the mean of the numerators over the channels, held between 0.001 and 1000 times its mean over the image (of
    each sample alone; the authors' code takes the mean of the batch). Borders are repeated. So a x + b has the context
    of x for any a != 0, and what edges there are counts rather than how dark the tissue is.

    0 where the contexts agree, 1 at most. An image without contrast has the context 1 everywhere.

    Args:
        radius: of a patch: it has 2 radius + 1 voxels along each axis.
        dilation: voxels from the centre to a neighbour.
    """

    radius: int = 2
    dilation: int = 2

    def __post_init__(self) -> None:
        _whole(self.radius, "radius", 0)
        _whole(self.dilation, "dilation", 1)

    def __call__(self, moving: Tensor, fixed: Tensor) -> Tensor:
        a, b = _images(moving, fixed)
        return _by_sample((self._context(a) - self._context(b)).square(), moving)

    def _context(self, image: Tensor) -> Tensor:
        """(B, 1, *spatial) to (B, 4 or 12, *spatial), from 0 to 1."""
        dims = image.dim() - 2
        squares = self._differences(image).square()
        padded = functional.pad(squares, [self.radius] * (2 * dims), mode="replicate")
        excess = _window_means(padded, 2 * self.radius + 1)
        excess = excess - excess.amin(1, keepdim=True)
        spread = excess.mean(1, keepdim=True)
        usual = spread.mean(list(range(1, spread.dim())), keepdim=True)
        # 1e-12: contrasts below 1e-6 are rounding errors of float32, and 0 / 0 of a flat image is no number
        spread = spread.minimum(usual * 1e3).maximum((usual * 1e-3).clamp(min=1e-12))
        return (-excess / spread).exp()

    def _differences(self, image: Tensor) -> Tensor:
        """Of the neighbours on each two axes, all four: (B, 4 or 12, *spatial)."""
        dims, step = image.dim() - 2, self.dilation
        padded = functional.pad(image, [step] * (2 * dims), mode="replicate")

        def moved(axis: int, offset: int) -> Tensor:
            t = padded
            for k in range(dims):
                t = t.narrow(2 + k, step + (offset if k == axis else 0), image.shape[2 + k])
            return t

        sides = [torch.cat([moved(axis, -step), moved(axis, step)], 1) for axis in range(dims)]
        return torch.cat(
            [(sides[i].unsqueeze(2) - sides[k].unsqueeze(1)).flatten(1, 2) for i, k in combinations(range(dims), 2)], 1
        )


@dataclass(frozen=True, kw_only=True)
class nmi:
    """2 - (H(a) + H(b)) / H(a, b), of the normalised mutual information of Studholme et al. (Pattern Recognition 1999).

    1 where neither image tells anything of the other (a flat image always), less where it does. Not 0 where each is a
    function of the other: a voxel is shared among the four nearest bins by a cubic B-spline (Thevenaz & Unser, IEEE TIP
    2000), whose gradient is continuous; of two equal images of evenly spread values it is 0.52 with 32 bins. Values
    outside [0, 1] count as 0 and 1. It takes 8 bytes for each voxel and bin, and as many for its gradient.

    Args:
        bins: of each image's histogram, for values from 0 to 1.
    """

    bins: int = 32

    def __post_init__(self) -> None:
        _whole(self.bins, "bins", 4)

    def __call__(self, moving: Tensor, fixed: Tensor) -> Tensor:
        a, b = _images(moving, fixed)
        with torch.autocast(a.device.type, enabled=False):  # it would multiply in half precision
            joint = self._shares(a) @ self._shares(b).mT / a[0].numel()
        single = _entropy(joint.sum(2)) + _entropy(joint.sum(1))
        return _by_sample(2 - single / _entropy(joint.flatten(1)), moving)

    def _shares(self, image: Tensor) -> Tensor:
        """(B, 1, *spatial) to what each voxel gives each bin, (B, bins, voxels); the shares of a voxel sum to 1."""
        place = image.flatten(2).clamp(0, 1) * (self.bins - 3) + 1  # a bin before and one after the ends
        first = place.detach().floor().clamp(max=self.bins - 3).nan_to_num(nan=1)  # NaN is no index; its shares are NaN
        t = place - first
        s = 1 - t
        shares = torch.cat([s**3, 4 - 6 * t**2 + 3 * t**3, 4 - 6 * s**2 + 3 * s**3, t**3], 1) / 6
        bins = first.long() + torch.arange(-1, 3, device=image.device)[:, None]
        return shares.new_zeros(len(image), self.bins, place.shape[2]).scatter(1, bins, shares)


def _entropy(shares: Tensor) -> Tensor:
    """(B, n) to (B,), in nats; an empty bin adds nothing and its gradient is finite."""
    return -(shares * shares.clamp(min=1e-12).log()).sum(1)


@dataclass(frozen=True, kw_only=True)
class local_correlation:
    """1 - the squared correlation of both images over a window, the mean over all windows that lie inside.

    From 0 to 1: contrasts may be turned and scaled from place to place (bias fields), not swapped within a window.
    Variances and covariance are taken in float64 about the sample's mean: they do not cancel, however bright the image.

    Args:
        window: voxels along each axis; the image must have as many.
        epsilon: added to both variances, so that a flat window correlates with nothing. The default is (0.8 / 255)².
    """

    window: int = 9
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        _whole(self.window, "window", 2)
        if not is_number(self.epsilon) or self.epsilon <= 0:
            raise ValueError(f"epsilon: wanted a finite number above 0, got {self.epsilon!r}")

    def __call__(self, moving: Tensor, fixed: Tensor) -> Tensor:
        a, b = _images(moving, fixed)
        if min(a.shape[2:]) < self.window:
            raise ValueError(
                f"fixed: wanted {self.window} voxels at least along each axis for this window, got {tuple(a.shape[2:])}"
            )
        dtype = a.dtype
        a, b = (t.double() - t.double().mean(list(range(1, t.dim())), keepdim=True).detach() for t in (a, b))
        mean_a, mean_b, aa, bb, ab = _window_means(torch.cat([a, b, a * a, b * b, a * b], 1), self.window).unbind(1)
        shared = ab - mean_a * mean_b
        spread_a = (aa - mean_a * mean_a).clamp(min=0) + self.epsilon
        spread_b = (bb - mean_b * mean_b).clamp(min=0) + self.epsilon
        return _by_sample(1 - shared * shared / (spread_a * spread_b), moving).to(dtype)
