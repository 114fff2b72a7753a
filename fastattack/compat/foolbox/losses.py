"""What the attacks ascend, of logits (B, classes) and classes (B,) whose range is known: looking at them at every step
would make the step wait for the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional

from ...objectives.classify import logits_of, margin


@dataclass(frozen=True)
class Loss:
    """Attributes:
    top: the largest class among those that will come.
    """

    top: int

    def logits(self, output: Any) -> Tensor:
        """Raises:
        ValueError: no logits (B, classes). IndexError: fewer classes than the labels have.
        """
        logits = logits_of(output, "foolbox's attacks", least=1)
        if logits.dim() != 2:
            raise ValueError(f"model: wanted logits (B, classes), got shape {tuple(logits.shape)}")
        if self.top >= logits.shape[1]:
            raise IndexError(f"labels: wanted classes from 0 to {logits.shape[1] - 1}, got {self.top}")
        return logits


class CrossEntropy(Loss):
    def __call__(self, output: Any, target: Tensor) -> Tensor:
        return functional.cross_entropy(self.logits(output), target, reduction="none")


class Margin(Loss):
    """The best other logit less that of the class."""

    def __call__(self, output: Any, target: Tensor) -> Tensor:
        return margin(self.logits(output), target)


class MarginByEntropy(Loss):
    """The margin, which tells success, with the gradient of the cross-entropy, along which DDN goes."""

    def __call__(self, output: Any, target: Tensor) -> Tensor:
        logits = self.logits(output)
        entropy = functional.cross_entropy(logits, target, reduction="none")
        return margin(logits, target).detach() + (entropy - entropy.detach())
