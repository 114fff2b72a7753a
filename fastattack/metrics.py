"""Quality per sample, as float64: mean squared error, PSNR, SSIM, MS-SSIM, LPIPS; and likeness of meaning.

Nothing is clipped here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .meaning import semantic_similarity, text_similarity
from .ops import check, dispatch, distances
from .ops.distance import psnr as decibels

__all__ = ["lpips", "ms_ssim", "mse", "psnr", "semantic_similarity", "ssim", "text_similarity"]

WINDOW = 11  # of SSIM, pixels


def mse(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference of each sample.

    Args:
        a: images [B, ...], any floating dtype.
        b: images of the same shape.

    Returns:
        [B], float64.

    Raises:
        ValueError: shapes that differ, or no batch dimension, or samples without elements.
    """
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {tuple(a.shape)} and {tuple(b.shape)}")
    if a.ndim < 2 or a[:1].numel() == 0:
        raise ValueError(f"expected a batch of images [B, ...], got shape {tuple(a.shape)}")
    if _alike(a, b):
        # What was chosen for an attack on a GPU does not bind images that are measured on the CPU.
        return distances(a, b, backend=dispatch.best(a.device).name).mse
    return (a.double() - b.double()).square().flatten(1).mean(1)


def _alike(a: Tensor, b: Tensor) -> bool:
    """Whether the op takes them: one dtype and device, and no gradient wanted."""
    recorded = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
    return a.dtype in check.DTYPES and a.dtype is b.dtype and a.device == b.device and not recorded


def psnr(a: Tensor, b: Tensor, data_range: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio of each sample, ``10 log10(data_range² / mse)``.

    Args:
        a: images [B, ...], any floating dtype; values outside the range count as they are.
        b: images of the same shape.
        data_range: distance from black to white, 1 for images in [0, 1].

    Returns:
        [B], float64, in dB; infinite where the samples are equal.

    Raises:
        ValueError: shapes as for `mse`, or a data range that is not positive.
    """
    return decibels(mse(a, b), data_range)


def ssim(a: Tensor, b: Tensor, data_range: float = 1.0) -> Tensor:
    """Structural similarity of each sample (Wang et al., IEEE TIP 2004), by torchmetrics in float64.

    A Gaussian window of 11 x 11 and sigma 1.5, K1 = 0.01, K2 = 0.03, biased variances; the mean over channels and over
    the windows that lie inside the image, as in the paper. So it equals skimage.metrics.structural_similarity(
    gaussian_weights=True, sigma=1.5, use_sample_covariance=False); torchmetrics' own mean counts reflected borders too.

    Args:
        a: images [B, C, H, W], any floating dtype, H and W at least 11; values outside the range count as they are.
        b: images of the same shape.
        data_range: distance from black to white, 1 for images in [0, 1].

    Returns:
        [B], float64, at most 1; 1 where the samples are equal.

    Raises:
        ValueError: shapes that differ, are not [B, C, H, W] or are smaller than a window; a data range that is not
            positive.
        RuntimeError: torchmetrics is not there or does not import.
    """
    _check_range(data_range)
    _check_pair(a, b)
    if min(a.shape[2:]) < WINDOW:
        raise ValueError(f"ssim: wanted images of {WINDOW} x {WINDOW} pixels at least, got shape {tuple(a.shape)}")
    _, windows = _torchmetrics_ssim()(
        a.double(), b.double(), data_range=float(data_range), reduction="none", return_full_image=True
    )
    rim = WINDOW // 2
    inside: Tensor = windows[..., rim:-rim, rim:-rim]
    return inside.flatten(1).mean(1)


def ms_ssim(a: Tensor, b: Tensor, data_range: float = 1.0, *, scales: int | None = None) -> Tensor:
    """Multi-scale structural similarity of each sample (Wang, Simoncelli & Bovik, Asilomar 2003), in float64.

    K1 = 0.01, K2 = 0.03 and the window of `ssim`. Means of 2 x 2 pixels lead from a scale to the next (an odd row or
    column at the end is left out). Of the coarsest scale the SSIM counts, of the others contrast times structure; each
    is the mean over channels and over the windows that lie inside the image. A mean below 0, whose power is not
    defined, counts as 0. torchmetrics' multiscale_structural_similarity_index_measure agrees but for the coarsest
    scale, where it counts reflected borders, which are many there; hence it is not called.

    Args:
        a: images [B, C, H, W], any floating dtype; values outside the range count as they are.
        b: images of the same shape.
        data_range: distance from black to white, 1 for images in [0, 1].
        scales: None, the published five, for which H and W must be 176 at least; or fewer, with the published weights
            of these made to sum to 1. H and W must then be 11 * 2 ** (scales - 1) at least; one scale is the SSIM.

    Returns:
        [B], float64, from 0 to 1; 1 where the samples are equal.

    Raises:
        ValueError: shapes that differ, are not [B, C, H, W] or are too small for the scales; another number of scales;
            a data range that is not positive.
    """
    from .objectives.multiscale import check_size, similarity, weights_of

    _check_range(data_range)
    _check_pair(a, b)
    weights = weights_of(scales)
    check_size("ms_ssim", a.shape, len(weights))
    constants = {"data_range": float(data_range), "k1": 0.01, "k2": 0.03}
    return similarity(a.double(), b.double(), weights, least=0, **constants)


def lpips(a: Tensor, b: Tensor, *, weights: str | Path, net: str | Callable[[Tensor], Any] = "alex") -> Tensor:
    """LPIPS of each sample, version 0.1 (Zhang et al., arXiv 1801.03924): `fastattack.objectives.lpips` as a measure.

    Network and weights are kept from one call to the next. No gradient passes.

    Args:
        a: images [B, 1 or 3, H, W] in [0, 1], large enough for the network.
        b: images of the same shape.
        weights: file of the published linear layers; none are packaged.
        net: "alex" or "vgg" (torchvision's, with the weights that it fetches), or a callable, as for the objective.

    Returns:
        [B], float64; 0 where the samples are equal.

    Raises:
        ValueError, FileNotFoundError: images or weights of another kind.
        RuntimeError: "alex" or "vgg" without torchvision.
    """
    _check_pair(a, b)
    path = Path(weights)
    changed = path.stat().st_mtime_ns if path.is_file() else 0  # another file of that name is read anew
    with torch.no_grad():
        return _lpips(path, changed, net)(a, b).double()


@lru_cache(maxsize=2)
def _lpips(weights: Path, _changed: int, net: str | Callable[[Tensor], Any]) -> Callable[[Tensor, Tensor], Tensor]:
    from .objectives import lpips as objective

    return objective(weights, net=net)


def _torchmetrics_ssim() -> Callable[..., Any]:
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except (ImportError, RuntimeError) as error:  # it imports torchvision where that is; broken, that is a RuntimeError
        raise RuntimeError(
            f"ssim: needs torchmetrics, which does not import here ({error}); pip install 'fastattack[evaluate]'"
        ) from error
    return structural_similarity_index_measure


def _check_range(data_range: float) -> None:
    if not data_range > 0:
        raise ValueError(f"data_range must be positive, got {data_range}")


def _check_pair(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {tuple(a.shape)} and {tuple(b.shape)}")
    if a.dim() != 4 or a[:1].numel() == 0:
        raise ValueError(f"expected images [B, C, H, W], got shape {tuple(a.shape)}")
