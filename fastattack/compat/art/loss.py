"""A torch loss as a function that gives a number for each sample."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ... import objectives
from ...objectives import Objective
from ...objectives.base import sample_mean


@dataclass(frozen=True)
class PerSample:
    """A torch loss with reduction="none": one number for each sample, the mean where it gives more."""

    loss: Any

    def __call__(self, output: Any, target: Any) -> Tensor:
        found = self.loss(output, target)
        if not isinstance(found, Tensor) or found.dim() == 0 or found.shape[0] != len(target):
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"estimator: wanted a loss with a number for each of {len(target)} samples where reduction='none', "
                f"got {got}"
            )
        return sample_mean(found)


def per_sample(loss: Any) -> PerSample:
    """A copy of a torch loss that does not reduce; the user's keeps its reduction."""
    if not hasattr(loss, "reduction"):
        raise ValueError(
            f"estimator: wanted a loss with an attribute reduction, as torch's have, got {type(loss).__name__} "
            "(its value for each sample is not known)"
        )
    own = copy.copy(loss)
    own.reduction = "none"
    return PerSample(own)


def objective_of(loss: Any) -> Objective:
    """The per-sample function that a restorer's loss stands for."""
    if loss is None or type(loss) is nn.MSELoss:
        return objectives.mse
    if type(loss) is nn.L1Loss:
        return objectives.mae
    if isinstance(loss, nn.Module) or hasattr(loss, "reduction"):
        return per_sample(loss)
    if isinstance(loss, type) or not callable(loss):
        raise TypeError(f"loss: wanted a torch loss or a function of (output, target), got {loss!r}")
    found: Objective = loss
    return found
