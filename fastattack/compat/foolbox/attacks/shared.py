"""One gradient for all epsilons where they begin at the same point."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....engine import Moment, Source, Wrapped
from ....objectives import Objective


class SharedStart(Wrapped):
    """A source whose batch holds every sample once for each epsilon: sample i's copies are named i, i + batch, ...

    Of copies that are at the same point, as they are at step 0 without a random start, one goes through the model.
    """

    def __init__(self, inner: Source, batch: int) -> None:
        super().__init__(inner)
        self.batch = batch

    def gradient(self, x: Tensor, target: Any, objective: Objective, moment: Moment) -> tuple[Tensor, Tensor]:
        if moment.step > 0 or moment.ids is None:
            return self.inner.gradient(x, target, objective, moment)
        names, again = (moment.ids % self.batch).unique(return_inverse=True)  # type: ignore[no-untyped-call]
        rows = torch.empty_like(names).scatter_(0, again, torch.arange(len(x), device=x.device))
        loss, grad = self.inner.gradient(x[rows], target[rows], objective, moment.named(moment.ids[rows]))
        return loss[again], grad[again]
