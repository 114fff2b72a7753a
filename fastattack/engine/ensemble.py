"""Several models as one source of losses and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..objectives import Objective
from ..ops.backend import Backend
from .naming import call_named
from .source import Model, Moment, Source, backward, per_sample_loss

ENSEMBLES = ("mean", "max", "min", "softmax", "logits")


class Ensemble(Source):
    """Several models, one loss.

    Their gradients are made one after the other and gathered in one buffer, so that only one graph is alive. ``how``:
    "mean" of the losses, or with the given ``weights``; "max" and "min": for each sample the loss of the model that is
    hit most, or least (to fool them all); "softmax": the mean weighted with softmax(losses), a smooth "max", whose
    gradient holds the weights fixed: it is that of logsumexp(losses), not of the loss that is told; "logits": the loss
    of the mean output (Dong et al., arXiv 1710.06081, section 3.4), which needs all graphs at once.
    """

    def __init__(self, members: Sequence[Source], how: str, weights: Sequence[float] | None, table: Backend) -> None:
        self.members = members
        self.models = [m for member in members for m in member.models]
        self.rule, self.table = how, table
        self.weights = [1.0 / len(members)] * len(members) if weights is None else [float(w) for w in weights]
        self.columns: dict[torch.device, Tensor] = {}  # a copy to the device waits for it

    @property
    def reduced(self) -> bool:
        return any(m.reduced for m in self.members)

    @property
    def how(self) -> str:
        each = [m.how for m in self.members]
        return each[0] if len(set(each)) == 1 else "; ".join(each)

    def value(self, x: Tensor, target: Any, objective: Objective, moment: Moment) -> Tensor:
        if self.rule == "logits":
            return per_sample_loss(self._mean_output(moment), objective, x, target)
        return self._of_losses(torch.stack([m.value(x, target, objective, moment).double() for m in self.members]))

    def _of_losses(self, losses: Tensor) -> Tensor:
        if self.rule in ("max", "min"):
            return losses.amax(0) if self.rule == "max" else losses.amin(0)
        return (losses * self._shares(losses)).sum(0)

    def _shares(self, losses: Tensor) -> Tensor:
        if self.rule == "softmax":
            return losses.softmax(0)
        if losses.device not in self.columns:
            self.columns[losses.device] = losses.new_tensor(self.weights)[:, None]
        return self.columns[losses.device]

    def _mean_output(self, moment: Moment) -> Model:
        models = [m.models[0] for m in self.members]

        def output(x: Tensor) -> Tensor:
            parts: list[Tensor] = [call_named(m, x, moment.ids, moment.draw) for m in models]
            if any(p.shape != parts[0].shape for p in parts):
                shapes = ", ".join(str(tuple(p.shape)) for p in parts)
                raise ValueError(f"model: wanted outputs of one shape with ensemble='logits', got {shapes}")
            return sum((w * p for w, p in zip(self.weights[1:], parts[1:], strict=True)), self.weights[0] * parts[0])

        return output

    def gradient(self, x: Tensor, target: Any, objective: Objective, moment: Moment) -> tuple[Tensor, Tensor]:
        if self.rule == "logits":
            return backward(lambda v: per_sample_loss(self._mean_output(moment), objective, v, target), x)
        if self.rule == "softmax":
            return self._softmax_gradient(x, target, objective, moment)
        total, loss = None, None
        for member, weight in zip(self.members, self.weights, strict=True):
            here, grad = member.gradient(x, target, objective, moment)
            here = here.double()
            if total is None or loss is None:
                total, loss = grad.clone(memory_format=torch.preserve_format), here
                if self.rule == "mean":
                    self.table.accumulate(total, total.clone(), 0.0, weight)
                    loss = loss * weight
            elif self.rule == "mean":
                self.table.accumulate(total, grad, 1.0, weight)
                loss = loss + weight * here
            else:
                taken = here > loss if self.rule == "max" else here < loss
                self.table.accumulate(total, grad, (~taken).double(), taken.double())
                loss = torch.where(taken, here, loss)
        assert total is not None, "an ensemble has members"
        assert loss is not None
        return loss, total

    def _softmax_gradient(self, x: Tensor, target: Any, objective: Objective, moment: Moment) -> tuple[Tensor, Tensor]:
        """The weights hold all losses, and the gradient of one is gone when the next comes: a running softmax."""
        total, largest, mass, losses = torch.zeros_like(x), None, torch.zeros(()), []
        for member in self.members:
            here, grad = member.gradient(x, target, objective, moment)
            here = here.double()
            losses.append(here)
            if largest is None:
                largest, mass = here, torch.zeros_like(here)
            now = torch.maximum(largest, here)
            old, new = mass * (largest - now).exp(), (here - now).exp()
            self.table.accumulate(total, grad, old / (old + new), new / (old + new))
            largest, mass = now, old + new
        return self._of_losses(torch.stack(losses)), total
