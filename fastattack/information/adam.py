"""Adam, by hand: the first torch.optim optimiser of a process imports torch._dynamo, which takes seconds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Adam:
    """Adam (arXiv 1412.6980) on gradients that are handed over; `.grad` fields are not touched.

    Args:
        weights: tensors to be moved in place.
        lr: length of a step, > 0.
        clip: the gradients are shortened to this norm over all of them, which keeps one wild batch of exp T from
            upsetting the second moments; None takes them as they are.
    """

    def __init__(self, weights: Sequence[Tensor], *, lr: float, clip: float | None = None) -> None:
        self.weights, self.lr, self.clip = list(weights), lr, clip
        self.first = [torch.zeros_like(w, requires_grad=False) for w in self.weights]
        self.second = [torch.zeros_like(w, requires_grad=False) for w in self.weights]
        self.steps = 0

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor], *, lr: float | None = None) -> None:
        """Move the weights down the gradients; ``lr`` for this step alone. Does not wait for the device."""
        self.steps += 1
        grads = list(grads)
        if self.clip is not None:
            norm = torch.stack(torch._foreach_norm(grads)).norm()
            torch._foreach_mul_(grads, (self.clip / norm).clamp(max=1.0))
        torch._foreach_lerp_(self.first, grads, 1 - 0.9)
        torch._foreach_mul_(self.second, 0.999)
        torch._foreach_addcmul_(self.second, grads, grads, 1 - 0.999)
        spread = torch._foreach_sqrt(self.second)
        torch._foreach_div_(spread, (1 - 0.999**self.steps) ** 0.5)
        torch._foreach_add_(spread, 1e-8)
        length = (self.lr if lr is None else lr) / (1 - 0.9**self.steps)
        torch._foreach_addcdiv_(self.weights, self.first, spread, -length)
