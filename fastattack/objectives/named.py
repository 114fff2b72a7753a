"""Perceptual distances by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..models.weights import cache_dir
from .base import Objective
from .multiscale import ms_ssim
from .perceptual import lpips
from .structure import ssim

WANTED = "'ssim', 'ms-ssim', 'lpips', a function of two batches of images, or None"


def perceptual_of(
    kind: str | Objective | None, weights: str | Path | None = None, net: Any = "alex"
) -> Objective | None:
    """The distance that is meant, one for each sample of two batches of images; never another one in its place.

    Args:
        kind: a name, or the function itself, or None.
        weights: file of LPIPS's linear layers; None means lpips_alex.pth (lpips_vgg.pth) in $FASTATTACK_CACHE.
        net: see `fastattack.objectives.lpips`.

    Raises:
        ValueError: another name; weights or a net beside another distance. FileNotFoundError: no weights for LPIPS.
    """
    if weights is not None and kind != "lpips":
        raise ValueError(f"lpips_weights: wanted None where perceptual is not 'lpips', got {str(weights)!r}")
    if net != "alex" and kind != "lpips":
        raise ValueError(f"lpips_net: wanted none where perceptual is not 'lpips', got {net!s:.60}")
    if kind is None or (callable(kind) and not isinstance(kind, type)):
        return kind
    if kind == "ssim":
        return ssim()
    if kind == "ms-ssim":
        return ms_ssim()
    if kind != "lpips":
        raise ValueError(f"perceptual: wanted {WANTED}, got {kind!r}")
    return lpips(_lpips_file(net) if weights is None else weights, net=net)


def _lpips_file(net: Any) -> Path:
    name = net if isinstance(net, str) else "alex"
    weights = cache_dir() / f"lpips_{name}.pth"
    if not weights.is_file():
        raise FileNotFoundError(
            f"lpips_weights: wanted the file of LPIPS's linear layers ({name}.pth of its version 0.1) here or as "
            f"{weights}, where there is none; perceptual='ssim' needs no weights"
        )
    return weights
