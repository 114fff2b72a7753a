"""Losses to climb that tell where the label is no longer the class: what AutoAttack's stages stop at."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Objective
from .classify import dlr_targeted

WRONG = 100.0  # cross-entropy is log(classes) at most where the label's logit is the largest, DLR 0


@dataclass(frozen=True)
class until_wrong:
    """A loss, but `WRONG` where the label is not the class, with the same gradient. Half of it is a threshold.

    For logits (B, classes) and losses that stay far below it while the label is the class: cross_entropy, dlr,
    `dlr_towards`. Target: labels (B,), or (B, 2) with the label first.
    """

    loss: Objective

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        loss = self.loss(output, target)
        wrong = output.argmax(1) != (target[:, 0] if target.dim() == 2 else target)
        return torch.where(wrong, loss + (WRONG - loss).detach(), loss)


def dlr_towards(output: Tensor, target: Tensor) -> Tensor:
    """Targeted DLR, to climb; target (B, 2): label, wanted class."""
    return -dlr_targeted(output, target)
