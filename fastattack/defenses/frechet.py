"""The Fréchet distance between two sets of features, each taken as Gaussian, with an error bar."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def frechet_distance(a: Tensor, b: Tensor, *, shrinkage: float = 0.0) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) of features (N, d) and (M, d); the square of a distance.

    What is called FID where the features are Inception's (Heusel et al., arXiv 1706.08500, equation 6), in float64.
    tr (S_a S_b)^(1/2) is the sum of the singular values of R_a R_b^T, where S = R^T R comes from a QR decomposition of
    the centred features: no root is taken of a product, which costs half of the digits where features are dependent.

    Args:
        shrinkage: share s in [0, 1] of each covariance that becomes tr(S)/d times the identity, S <- (1 - s) S +
            s tr(S)/d I, for sets that are small beside d (Ledoit & Wolf 2004 with a given weight). 0: the covariance as
            it is, which needs more than d samples.

    Raises:
        TypeError, ValueError: features that do not fit or are too few; how many are wanted is told.
    """
    require_shrinkage(shrinkage)
    for name, features in (("a", a), ("b", b)):
        require_enough(features, name, shrinkage)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"b: wanted {a.shape[1]} features as a has, got {b.shape[1]}")
    return between(shape_of(a, shrinkage), shape_of(b, shrinkage))


def require_shrinkage(shrinkage: float) -> None:
    """A share."""
    if isinstance(shrinkage, bool) or not isinstance(shrinkage, (int, float)) or not 0 <= shrinkage <= 1:
        raise ValueError(f"shrinkage: wanted a share in [0, 1], got {shrinkage!r}")


def require_enough(features: Tensor, name: str, shrinkage: float, least: int = 2) -> None:
    """Finite features (N, d) of more than d samples, or of ``least`` where the covariance is shrunk."""
    if not isinstance(features, Tensor) or not features.is_floating_point():
        raise TypeError(f"{name}: wanted a float tensor (N, d), got {getattr(features, 'dtype', type(features))}")
    if features.dim() != 2 or features.shape[1] < 1:
        raise ValueError(f"{name}: wanted features (N, d), got {tuple(features.shape)}")
    count, width = features.shape
    wanted = least if shrinkage > 0 else max(least, width + 1)
    if count < wanted:
        hint = "" if shrinkage > 0 or count < least else "; shrinkage=0.1, say, takes fewer"
        raise ValueError(
            f"{name}: wanted at least {wanted} images for a Fréchet distance of {width} features, got {count}{hint}"
        )
    if not bool(features.isfinite().all()):
        raise ValueError(f"{name}: wanted finite features, got NaN or infinity")


@dataclass(frozen=True)
class Shape:
    """A Gaussian: mean (d,) and a root R (d or less, d) of its covariance R^T R, float64."""

    mean: Tensor
    root: Tensor


def shape_of(features: Tensor, shrinkage: float = 0.0) -> Shape:
    """Of samples (N, d), N >= 2; the covariance with N - 1 in the denominator."""
    wide = features.detach().double()
    mean = wide.mean(0)
    rows = (wide - mean) / math.sqrt(len(wide) - 1)
    if shrinkage > 0:
        width = rows.shape[1]
        identity = torch.eye(width, dtype=rows.dtype, device=rows.device)
        mass = rows.square().sum() / width
        rows = torch.cat([rows * math.sqrt(1 - shrinkage), identity * (shrinkage * mass).sqrt()])
    return Shape(mean, torch.linalg.qr(rows, mode="r").R)


def between(a: Shape, b: Shape) -> float:
    """The Fréchet distance (squared) of two Gaussians; rounding does not take it below 0."""
    common = torch.linalg.svdvals(a.root @ b.root.mT).sum()
    spread = a.root.square().sum() + b.root.square().sum() - 2 * common
    return max(0.0, float((a.mean - b.mean).square().sum() + spread))


def jackknife_error(left_out: Tensor) -> Tensor:
    """Standard error (...) of a statistic from its values (..., G) without each of G groups of samples.

    Efron & Tibshirani 1993, chapter 11. A bootstrap would not do: samples drawn twice lower the rank of a covariance,
    and the distance rises with that.
    """
    groups = left_out.shape[-1]
    spread = (left_out - left_out.mean(-1, keepdim=True)).square().sum(-1)
    return ((groups - 1) / groups * spread).sqrt()
