"""An estimator's preprocessing and its model as one differentiable module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from art.defences.preprocessor.preprocessor import PreprocessorPyTorch
from art.preprocessing.standardisation_mean_std.numpy import StandardisationMeanStd
from art.preprocessing.standardisation_mean_std.pytorch import StandardisationMeanStdPyTorch
from art.preprocessing.standardisation_mean_std.utils import broadcastable_mean_std
from torch import Tensor, nn

Operation = Callable[[Tensor], Tensor]


class Preprocessed(nn.Module):
    """model(operations(x))."""

    def __init__(self, model: nn.Module, operations: Sequence[Operation]) -> None:
        super().__init__()
        self.model = model
        self.operations = list(operations)

    def forward(self, x: Tensor) -> Any:
        for operation in self.operations:
            x = operation(x)
        return self.model(x)


@dataclass(frozen=True)
class Standardise:
    """(x - mean) / std, of ART's float32 numbers."""

    mean: Tensor
    std: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


@dataclass(frozen=True)
class Framework:
    """A defence that ART writes in torch: autograd goes through it, as in ART."""

    defence: Any

    def __call__(self, x: Tensor) -> Tensor:
        found: Tensor = self.defence.forward(x, None)[0]
        return found


@dataclass(frozen=True)
class Estimated:
    """A defence in NumPy: there by the defence, back by the gradient that it estimates, as in ART."""

    defence: Any

    def __call__(self, x: Tensor) -> Tensor:
        found: Tensor = _Estimated.apply(x, self.defence)  # type: ignore[no-untyped-call]
        return found


class _Estimated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, defence: Any) -> Tensor:
        ctx.save_for_backward(x)
        ctx.defence = defence
        return torch.from_numpy(np.array(defence(x.detach().cpu().numpy(), None)[0])).to(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        found = ctx.defence.estimate_gradient(x.detach().cpu().numpy(), grad.cpu().numpy())
        return torch.from_numpy(np.array(found)).to(grad), None


def preprocessed(
    estimator: Any, shape: tuple[int, ...], device: torch.device, before: nn.Module | None = None
) -> nn.Module:
    """The estimator's model behind its preprocessing; the model itself where that changes nothing.

    Args:
        shape: of a batch: vectors of means and deviations are laid along its channels as ART does.
        before: what an earlier call gave; taken again, with the operations of today, where the model is the same.
    """
    found = [_operation(op, (1, *shape[1:]), device) for op in estimator.preprocessing_operations if op.apply_predict]
    operations = [op for op in found if op is not None]
    model: nn.Module = estimator.model
    if operations and isinstance(before, Preprocessed) and before.model is model:
        before.operations = operations
        return before
    return Preprocessed(model, operations) if operations else model


def _operation(defence: Any, shape: tuple[int, ...], device: torch.device) -> Operation | None:
    if isinstance(defence, (StandardisationMeanStd, StandardisationMeanStdPyTorch)):
        mean, std = broadcastable_mean_std(np.empty(shape, dtype=np.float32), defence.mean, defence.std)
        if not mean.any() and (std == 1).all():  # ART's default
            return None
        if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std != 0).all()):
            raise ValueError("preprocessing: wanted finite means and deviations other than 0 in the estimator")
        return Standardise(*(torch.tensor(v, dtype=torch.float32, device=device) for v in (mean, std)))
    return Framework(defence) if isinstance(defence, PreprocessorPyTorch) else Estimated(defence)
