"""Losses that weigh the positions of a dense output: SegPGD and CosPGD.

Both turn to the positions that still hold. A weighted loss can fall while the attack succeeds, so the best iterate by
it is not the best attack: use ``keep="last"``, as the authors do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .base import pair, require_flag, sample_mean
from .classify import labels_of, logit_at, logits_of


def _require_dense(t: Any, name: str) -> None:
    if isinstance(t, Tensor) and t.dim() < 3:
        raise ValueError(f"model: wanted a dense output (B, classes, ...) for {name}, got shape {tuple(t.shape)}")


@dataclass(frozen=True, kw_only=True)
class segpgd:
    """SegPGD (arXiv 2207.12391): cross-entropy, 1 - weight at positions still right and weight at those already wrong.

    The weight grows from 0 to 1/2: (t - 1) / (2 T) at step t of T. The engine sets it by `at`.

    Args:
        weight: lambda in [0, 1]; None where `at` sets it.
        targeted: labels are wanted classes, "wrong" ones have got them, and the attack goes down.
    """

    weight: float | None = None
    targeted: bool = False

    def __post_init__(self) -> None:
        require_flag(self.targeted, "targeted")
        if self.weight is not None and not 0 <= self.weight <= 1:
            raise ValueError(f"weight: wanted a number from 0 to 1, got {self.weight!r}")

    def at(self, step: int, steps: int) -> segpgd:
        """The loss of gradient step ``step`` = 0 .. steps - 1 (t - 1 in the paper)."""
        if not 0 <= step <= steps or steps < 1:
            raise ValueError(f"step: wanted 0 to steps = {steps}, got {step}")
        return replace(self, weight=step / (2 * steps))

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        if self.weight is None:
            raise ValueError("weight: wanted a number, got None; call segpgd().at(step, steps), or pass a fixed weight")
        _require_dense(output, "segpgd")
        logits = logits_of(output, "segpgd")
        labels = labels_of(target, logits)
        holds = (logits.argmax(1) == labels) ^ self.targeted
        loss = functional.cross_entropy(logits, labels, reduction="none")
        return sample_mean(torch.where(holds, (1 - self.weight) * loss, self.weight * loss))


@dataclass(frozen=True, kw_only=True)
class cospgd:
    """CosPGD (arXiv 2302.02213): the loss of each position by the cosine between prediction and target there.

    Logits (B, classes, ...) with integer labels (B, ...): cross-entropy, and the cosine of the activated logits with
    the one-hot label. Images (B, C, ...) with a target like them, C >= 2: squared error, and the cosine of both,
    activated, along C. No gradient flows through the cosine, as in the authors' code.

    Args:
        activation: "softmax" over the channels, or "sigmoid".
        targeted: the target is the wanted one, the weight 1 - cosine, and the attack goes down.
    """

    activation: str = "softmax"
    targeted: bool = False

    def __post_init__(self) -> None:
        require_flag(self.targeted, "targeted")
        if self.activation not in ("softmax", "sigmoid"):
            raise ValueError(f"activation: wanted 'softmax' or 'sigmoid', got {self.activation!r}")

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        _require_dense(output, "cospgd")
        regression = isinstance(target, Tensor) and target.is_floating_point()
        cosine, loss = self._images(output, target) if regression else self._labels(output, target)
        weight = 1 - cosine if self.targeted else cosine
        return sample_mean(weight * loss)

    def _active(self, t: Tensor) -> Tensor:
        t = t.detach()
        return t.softmax(1) if self.activation == "softmax" else t.sigmoid()

    def _labels(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        logits = logits_of(output, "cospgd")
        labels = labels_of(target, logits)
        active = self._active(logits)
        cosine = logit_at(active, labels) / torch.linalg.vector_norm(active, dim=1).clamp(min=1e-8)
        return cosine, functional.cross_entropy(logits, labels, reduction="none")

    def _images(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        output, target = pair(output, target)
        if output.shape[1] < 2:
            raise ValueError("model: wanted 2 channels at least for cospgd (the cosine of one is 1; use mse), got 1")
        cosine = functional.cosine_similarity(self._active(output), self._active(target), dim=1)
        return cosine.unsqueeze(1), (output - target).square()
