"""A denoiser and what looks at its output, as one model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..engine import Model
from ..guard import modules_of
from ..inputs import out_of_memory, told


class Pipeline(nn.Module):
    """y -> (y, D(y)), or (y, D(y), T(D(y))) with a task model T.

    Args:
        name: what the user calls T: "task" or "encoder".

    Raises:
        ValueError: the task model does not take what the denoiser gives; one of both has no gradient where one is
            wanted, which would go unseen because the input itself has one.
    """

    def __init__(self, denoiser: Model, task: Callable[[Tensor], Any] | None, name: str = "task") -> None:
        super().__init__()
        self.denoiser = denoiser
        self.task = task
        self.name = name
        methods = [m for m in (denoiser, task) if m is not None and not isinstance(m, nn.Module)]
        self.roots = nn.ModuleList([root for m in methods for root in modules_of(m)[:1]])  # of bound methods

    def forward(self, y: Tensor) -> tuple[Any, ...]:
        restored = self.denoiser(y)
        if not isinstance(restored, Tensor):
            raise TypeError(f"denoiser: wanted a tensor as output, got {type(restored).__name__}")
        if y.requires_grad and not restored.requires_grad:
            raise ValueError("denoiser: wanted an output that depends on its input through autograd, got no gradient")
        if self.task is None:
            return y, restored
        verdict = judge(self.task, restored, self.name)
        if restored.requires_grad and not any(_has_gradient(leaf) for leaf in tree_leaves(verdict)):
            hint = "; task=None attacks what an unknown one sees" if self.name == "task" else ""
            raise ValueError(
                f"{self.name}: wanted a differentiable model (an output that depends on the image through autograd), "
                f"got an output without gradient{hint}"
            )
        return y, restored, verdict


def judge(task: Callable[[Tensor], Any], images: Tensor, name: str = "task") -> Any:
    """What the task model, or another one called ``name``, says of images."""
    try:
        return task(images)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        if out_of_memory(error) or _recorded(images):
            raise
        raise ValueError(
            f"{name}: wanted a model that takes the denoiser's output, {tuple(images.shape)} {images.dtype} on "
            f"{images.device}, got {told(error)}"
        ) from error


def _recorded(images: Tensor) -> bool:
    """A CUDA graph is being recorded, for which the caller knows what an error means."""
    return images.is_cuda and torch.cuda.is_current_stream_capturing()


def _has_gradient(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.requires_grad


def right(verdict: Any, labels: Any) -> Tensor | None:
    """(B,) bool: the likeliest class is the label; None where the two are no logits (B, classes) and labels (B,)."""
    fits = isinstance(verdict, Tensor) and isinstance(labels, Tensor) and verdict.dim() == 2 and labels.dim() == 1
    if not fits or labels.is_floating_point() or verdict.shape[0] != labels.shape[0]:
        return None
    with torch.no_grad():
        found: Tensor = verdict.argmax(1) == labels.to(verdict.device)
    return found
