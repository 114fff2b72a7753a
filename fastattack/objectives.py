"""What an attack climbs: functions of (output, target) that give one loss for each sample, (B,).

Any such function will do; these are the common ones. They are computed in float32 at least, whatever the model returns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Objective = Callable[[Any, Any], Tensor]


def _pair(output: Any, target: Any) -> tuple[Tensor, Tensor]:
    if not isinstance(output, Tensor):
        raise TypeError(
            f"model: wanted a tensor as output, got {type(output).__name__}; pass an objective that takes it"
        )
    if not isinstance(target, Tensor):
        raise TypeError(f"target: wanted a tensor like the model's output, got {type(target).__name__}")
    if output.shape != target.shape:
        raise ValueError(
            f"model: wanted an output of the target's shape {tuple(target.shape)}, got {tuple(output.shape)}"
        )
    wide = torch.promote_types(output.dtype, torch.float32)
    return output.to(wide), target.to(wide)


def mse(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over each sample; the loss of denoising-PGD (arXiv 2306.16050)."""
    output, target = _pair(output, target)
    return (output - target).square().flatten(1).mean(1)


def mae(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error over each sample."""
    output, target = _pair(output, target)
    return (output - target).abs().flatten(1).mean(1)


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of logits (B, classes, ...) to labels (B, ...) int64; the mean over positions for dense outputs."""
    if not isinstance(output, Tensor) or output.dim() < 2:
        raise ValueError("model: wanted logits (B, classes, ...) for cross_entropy")
    if not isinstance(target, Tensor):
        raise TypeError(f"target: wanted integer labels, got {type(target).__name__}")
    if target.is_floating_point() or target.shape != output.shape[:1] + output.shape[2:]:
        wanted = tuple(output.shape[:1] + output.shape[2:])
        raise ValueError(f"target: wanted integer labels of shape {wanted}, got {tuple(target.shape)} {target.dtype}")
    wide = output.to(torch.promote_types(output.dtype, torch.float32))
    return functional.cross_entropy(wide, target.long(), reduction="none").reshape(output.shape[0], -1).mean(1)
