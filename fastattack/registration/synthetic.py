"""Pairs whose true field is known: a smooth deformation, another contrast, a bias field, noise.

Every draw is named by (seed, id) alone and every sum has a fixed order, so that neither the batch nor the number of
threads changes a bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops import check
from ..ops.reference_random import STREAM_PAIR, numbered, sample_normals, sample_words
from .fields import exponential, require_floating, warp
from .landmarks import landmarks
from .overlap import warp_labels
from .truth import Truth

_VELOCITY, _OPTIONS, _BIAS, _NOISE = range(4)
_REACH = 4  # of a Gaussian, in control points on either side; beyond it is below 4e-4
_KNOTS = 6
CONTRASTS = ("random", "t2", "none")


class PairBatch(NamedTuple):
    """B pairs and what is known of them."""

    pair: Tensor
    """(B, 2, *spatial): moving, fixed."""
    truth: Truth


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """Makes pairs of images.

    The image is the fixed one, F. A velocity v (`smooth_velocity`) gives the true field u = exponential(v), and the
    moving image is M(p) = F(p + exponential(-v)(p)), so that M(p + u(p)) = F(p). Then M's grey values are mapped,
    multiplied by a smooth bias field, and Gaussian noise is added; at last they are clipped to [0, 1].

    Args:
        amplitude: largest length of the velocity in voxels: a number, or an interval of which each pair draws its own.
        scale: standard deviation of the Gaussian that makes velocities smooth, in voxels. With the default amplitude no
            field folds (least determinant of 1000 pairs of 96 x 96 pixels: 0.36).
        contrast: how M's grey values are mapped. "random": a smooth curve drawn for each pair that rises and falls,
            from 0 at 0, between 0.1 and 0.9 at 0.4, 0.6, 0.8 and 1; "t2": one that makes what is dark in T1 bright and
            the reverse, a little different in each pair; "none": not at all.
        bias: the bias field goes from 1 - bias to 1 + bias at most. 0 <= bias < 1.
        noise: standard deviation, on the scale of the images.
        points: landmarks of a pair.
        spacing: mm per voxel along each axis; None: 1.

    Raises:
        TypeError, ValueError: an option that cannot be.
    """

    amplitude: float | tuple[float, float] = (4.0, 6.0)
    scale: float = 10.0
    contrast: str = "random"
    bias: float = 0.2
    noise: float = 0.02
    points: int = 32
    spacing: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        low, high = _interval(self.amplitude)
        if not 0 <= low <= high < math.inf:
            raise ValueError(
                f"amplitude: wanted a length >= 0 in voxels or an interval of them, got {self.amplitude!r}"
            )
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale: wanted a length > 0 in voxels, got {self.scale!r}")
        if self.contrast not in CONTRASTS:
            raise ValueError(f"contrast: wanted one of {', '.join(CONTRASTS)}, got {self.contrast!r}")
        if not 0 <= self.bias < 1:
            raise ValueError(f"bias: wanted 0 <= bias < 1, got {self.bias!r}")
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"noise: wanted a standard deviation >= 0, got {self.noise!r}")
        if isinstance(self.points, bool) or not isinstance(self.points, int) or self.points < 0:
            raise ValueError(f"points: wanted a whole number >= 0, got {self.points!r}")
        if self.spacing is not None and not all(0 < step < math.inf for step in self.spacing):
            raise ValueError(f"spacing: wanted lengths > 0 in mm, got {self.spacing!r}")

    def pairs(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        masks: Tensor | None = None,
        *,
        seed: int,
        ids: Tensor | Sequence[int],
    ) -> PairBatch:
        """One pair of each image; float32, on the images' device.

        Args:
            images: (B, 1, *spatial) in [0, 1], the fixed images; 2 or 3 spatial axes.
            labels: (B, 1, *spatial) integers, 0 the background; the moving image's are warped as it is.
            masks: (B, 1, *spatial) bool, where errors count and landmarks lie; None: where there are labels, else
                everywhere.
            seed, ids: name the draws. One image with two ids gives two pairs.

        Raises:
            TypeError, ValueError: shapes, types or values that do not fit, or a mask too small for its landmarks.
        """
        _check_images(images, labels, masks)
        if self.spacing is not None and len(self.spacing) != images.dim() - 2:
            raise ValueError(f"spacing: wanted {images.dim() - 2} lengths, got {self.spacing!r}")
        fixed = images.detach().float()
        shape, known = tuple(images.shape[2:]), _ids(ids, images.device, len(images))
        velocity = smooth_velocity(shape, amplitude=self.amplitude, scale=self.scale, seed=seed, ids=known)
        field, back = exponential(velocity), exponential(-velocity)
        moving = self._seen(warp(fixed, back), seed, known)
        if masks is None and labels is not None:
            masks = labels > 0
        points = None
        if self.points:
            everywhere = torch.ones_like(fixed, dtype=torch.bool) if masks is None else masks
            points = landmarks(fixed, everywhere, self.points)
        spacing = None if self.spacing is None else fixed.new_tensor(self.spacing).expand(len(images), -1)
        truth = Truth(
            field=field,
            mask=masks,
            landmarks=points,
            landmarks_moved=None if points is None else points + _at(field, points),
            labels_moving=None if labels is None else warp_labels(labels, back),
            labels_fixed=labels,
            spacing=spacing,
        )
        return PairBatch(torch.cat([moving, fixed], 1), truth)

    def _seen(self, images: Tensor, seed: int, ids: Tensor) -> Tensor:
        """By the other scanner."""
        if self.contrast != "none":
            images = _mapped(images, self._knots(seed, ids))
        if self.bias:
            shape = tuple(images.shape[2:])
            field = _smooth(shape, 1, max(shape) / 3, seed, ids, _BIAS)
            images = images * (1 + field * _per_sample(self.bias / _peak(field), field)).float()
        if self.noise:
            normals = sample_normals(images[0].numel(), seed, ids, numbered(STREAM_PAIR, _NOISE))
            images = images + normals.view_as(images) * self.noise
        return images.clamp(0, 1)

    def _knots(self, seed: int, ids: Tensor) -> Tensor:
        """(B, knots) float64 values at equal distances from 0 to 1; the first is 0, for the background."""
        drawn = _uniforms(seed, ids, _KNOTS)[:, 1:]
        if self.contrast == "t2":
            middle = drawn.new_tensor([0.95, 0.8, 0.6, 0.4, 0.15])
            drawn = middle + (drawn - 0.5) * 0.1
        else:
            upper = drawn[:, 1:]  # where tissue is: some contrast is left there
            low, high = upper.aminmax(dim=1, keepdim=True)
            drawn = torch.cat([drawn[:, :1], 0.1 + 0.8 * (upper - low) / (high - low)], 1)
        return torch.cat([torch.zeros_like(drawn[:, :1]), drawn], 1)


def smooth_velocity(
    shape: tuple[int, ...],
    *,
    amplitude: float | tuple[float, float],
    scale: float,
    seed: int,
    ids: Tensor | Sequence[int],
) -> Tensor:
    """(B, d, *shape) float32: white noise under a Gaussian, falling to 0 at the edges, so that no flow leaves the grid.

    The noise lies on points ``scale`` apart: before the edges are tapered the variance is the same everywhere to 2 in
    10 000, and neighbours are correlated as if there were noise on every voxel.

    Args:
        shape: of the grid. amplitude: largest length, in voxels, or an interval of which each sample draws its own.
        scale: standard deviation of the Gaussian, in voxels.
    """
    known = _ids(ids, torch.device("cpu") if not isinstance(ids, Tensor) else ids.device)
    low, high = _interval(amplitude)
    wanted = low + (high - low) * _uniforms(seed, known, 1)[:, 0]
    velocity = _smooth(shape, len(shape), scale, seed, known, _VELOCITY)
    for axis, n in enumerate(shape):
        velocity = velocity * _along(_edges(n, 2 * scale, velocity), axis, len(shape))
    length = _added([velocity[:, k : k + 1] * velocity[:, k : k + 1] for k in range(len(shape))])
    largest = _peak(length).tolist()
    factors = [a / math.sqrt(peak) if peak > 0 else 0.0 for a, peak in zip(wanted.tolist(), largest, strict=True)]
    return (velocity * _per_sample(velocity.new_tensor(factors), velocity)).float()


def _smooth(shape: tuple[int, ...], channels: int, scale: float, seed: int, ids: Tensor, draw: int) -> Tensor:
    """(B, channels, *shape) float64: normals on points ``scale`` apart, each under a Gaussian of that width.

    Products and sums of single numbers only: matrix products and convolutions change their bits with the batch.
    """
    counts = [math.ceil((n - 1) / scale) + 2 * _REACH + 1 for n in shape]
    normals = sample_normals(channels * math.prod(counts), seed, ids, numbered(STREAM_PAIR, draw))
    field = normals.double().view(len(ids), channels, *counts)
    for axis, (n, count) in enumerate(zip(shape, counts, strict=True)):
        weights = [[math.exp(-0.5 * (x / scale - (j - _REACH)) ** 2) for x in range(n)] for j in range(count)]
        table = [_along(field.new_tensor(row), axis, len(shape)) for row in weights]
        field = _added([field.narrow(2 + axis, j, 1) * row for j, row in enumerate(table)])
    return field


def _mapped(images: Tensor, knots: Tensor) -> Tensor:
    """Grey values through the knots; between two of them 3 t^2 - 2 t^3 joins their values, level at both."""
    pieces = knots.shape[1] - 1
    place = images.double().clamp(0, 1) * pieces
    out = torch.zeros_like(place)
    for k in range(pieces):
        t = (place - k).clamp(0, 1)
        step = (knots[:, k + 1] - knots[:, k]).view(-1, *[1] * (images.dim() - 1))
        out = out + step * (t * t * (3 - 2 * t))
    return out.float()


def _edges(n: int, width: float, like: Tensor) -> Tensor:
    """(n,): 0 at the first and the last voxel, 1 from ``width`` voxels on (a quarter of the axis at most)."""
    width = min(width, max((n - 1) / 4, 1))
    steps = [min(min(k, n - 1 - k) / width, 1.0) for k in range(n)]
    return like.new_tensor([t * t * (3 - 2 * t) for t in steps])


def _at(field: Tensor, points: Tensor) -> Tensor:
    """(B, N, d): the field at whole positions (B, N, d)."""
    rows = torch.arange(len(field), device=field.device)[:, None]
    where = points.long().unbind(-1)
    return field.movedim(1, -1)[(rows, *where)]


def _uniforms(seed: int, ids: Tensor, count: int) -> Tensor:
    """(B, count) float64 in (0, 1): amplitude first, then knots."""
    quads = torch.arange((count + 3) // 4, device=ids.device)
    words = sample_words(quads, ids, seed, numbered(STREAM_PAIR, _OPTIONS)).flatten(1)[:, :count]
    return (words.double() + 0.5) * 2.0**-32


def _added(terms: list[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _peak(field: Tensor) -> Tensor:
    """(B,): the largest magnitude."""
    return field.flatten(1).abs().amax(1)


def _along(values: Tensor, axis: int, dims: int) -> Tensor:
    return values.view([-1 if k == axis else 1 for k in range(dims)])


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 1))


def _interval(amplitude: float | tuple[float, float]) -> tuple[float, float]:
    low, high = amplitude if isinstance(amplitude, tuple | list) else (amplitude, amplitude)
    return float(low), float(high)


def _ids(ids: Tensor | Sequence[int], device: torch.device, count: int | None = None) -> Tensor:
    wanted = len(ids) if count is None else count
    found = check.ids_of(ids, torch.empty(wanted, 0, device=device))
    assert found is not None
    return found


def _check_images(images: Tensor, labels: Tensor | None, masks: Tensor | None) -> None:
    require_floating(images, "images")
    if images.dim() not in (4, 5) or images.shape[1] != 1:
        raise ValueError(f"images: wanted (B, 1, H, W) or (B, 1, D, H, W), got {tuple(images.shape)}")
    if images.numel() and not 0 <= float(images.min()) <= float(images.max()) <= 1:
        raise ValueError(f"images: wanted values in [0, 1], got {float(images.min()):g} to {float(images.max()):g}")
    for name, part in (("labels", labels), ("masks", masks)):
        if part is None:
            continue
        if part.shape != images.shape:
            raise ValueError(f"{name}: wanted {tuple(images.shape)} as the images are, got {tuple(part.shape)}")
        if part.is_floating_point() or (name == "masks") != (part.dtype == torch.bool):
            raise TypeError(f"{name}: wanted {'bool' if name == 'masks' else 'integers'}, got {part.dtype}")
