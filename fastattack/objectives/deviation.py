"""How far the output moves: an attack without a clean image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..guard import fresh, left_as_found
from .pixel import mse


def deviation(output: Tensor, target: Tensor) -> Tensor:
    """|D(y') - D(y)|², the mean over each sample; the target is `deviation_target(model, y)`.

    Its gradient at y itself is 0: keep the random start. Without a clean image preserve_noise has nothing to preserve:
    it would take D(y) for the clean image.
    """
    return mse(output, target)


def deviation_target(
    model: Callable[[Tensor], Any], y: Tensor, *, eval_mode: bool = True, max_batch: int | None = None
) -> Tensor:
    """model(y) as a constant; the model, its gradients and torch's random state are left as found.

    Args:
        model: called as model(y); an nn.Module or any callable.
        y: (B, ...) input.
        eval_mode, max_batch: as for fa.PGD, with which they should agree.

    Raises:
        TypeError, ValueError: y or the model's output is not a tensor of B samples.
    """
    if not isinstance(y, Tensor):
        raise TypeError(f"y: wanted a tensor, got {type(y).__name__}")
    if y.dim() < 2 or y.shape[0] == 0:
        raise ValueError(f"y: wanted a batch of samples (B, ...), got shape {tuple(y.shape)}")
    if max_batch is not None and (isinstance(max_batch, bool) or not isinstance(max_batch, int) or max_batch < 1):
        raise ValueError(f"max_batch: wanted a whole number >= 1, got {max_batch!r}")
    with torch.inference_mode(False), torch.no_grad(), left_as_found(model, y.device, eval_mode=eval_mode):
        parts = [model(part) for part in torch.split(fresh(y), max_batch or y.shape[0])]
    for part in parts:
        if not isinstance(part, Tensor):
            raise TypeError(f"model: wanted a tensor as output, got {type(part).__name__}")
    if sum(part.shape[0] if part.dim() else 0 for part in parts) != y.shape[0]:
        raise ValueError(f"model: wanted an output of {y.shape[0]} samples, got shape {tuple(parts[0].shape)}")
    return torch.cat(parts)  # a copy, also where the model returns its input
