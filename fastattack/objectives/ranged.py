"""Losses of logits (B, classes) and labels (B,) int64 whose range is known: looking at labels at every step would make
the step wait for the device, and not looking lets a device read beyond the logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional

from .classify import logits_of, margin


@dataclass(frozen=True)
class Ranged:
    """What the losses share.

    Attributes:
        top: the largest label among those that will come; the smallest is 0 at least.
    """

    top: int

    def logits(self, output: Any) -> Tensor:
        """Logits (B, classes), in float32 at least.

        Raises:
            ValueError: the output is something else. IndexError: a label is no class of it.
        """
        logits = logits_of(output, type(self).__name__, least=1)
        if logits.dim() != 2:
            raise ValueError(f"model: wanted logits (B, classes), got shape {tuple(logits.shape)}")
        if self.top >= logits.shape[1]:
            raise IndexError(f"labels: wanted classes from 0 to {logits.shape[1] - 1}, got {self.top}")
        return logits


class CrossEntropy(Ranged):
    """The cross-entropy."""

    def __call__(self, output: Any, target: Tensor) -> Tensor:
        return functional.cross_entropy(self.logits(output), target, reduction="none")


class Margin(Ranged):
    """The best other logit less that of the class."""

    def __call__(self, output: Any, target: Tensor) -> Tensor:
        return margin(self.logits(output), target)


class MarginByEntropy(Ranged):
    """The margin, which tells success, with the gradient of the cross-entropy, along which DDN goes."""

    def __call__(self, output: Any, target: Tensor) -> Tensor:
        logits = self.logits(output)
        entropy = functional.cross_entropy(logits, target, reduction="none")
        return margin(logits, target).detach() + (entropy - entropy.detach())
