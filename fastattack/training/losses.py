"""What training brings down: the mean squared error, or another objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..objectives import Objective, features, mse
from ..objectives.base import require_positive

Loss = str | Objective | None
NAMES = ("mse", "mse+features")

_DEPTH, _LAYERS = 12, ("5", "11")  # the first modules of the embedded DnCNN, and two ReLUs of them
_SHARE = 0.1


@dataclass(frozen=True)
class Weighted:
    """A weighted sum of objectives, one value for each sample.

    Weighted([(1.0, fa.objectives.mse), (0.1, fa.objectives.features(net, layers=[...]))]), for example: the L2 and
    perceptual loss by which arXiv 2402.13629 fine-tunes (there the features are VGG-19's).

    Args:
        terms: pairs of a weight > 0 and an objective.

    Raises:
        TypeError, ValueError: none, a weight that is none, or something else than an objective.
    """

    terms: Sequence[tuple[float, Objective]]

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("terms: wanted pairs of a weight and an objective, got none")
        for k, pair in enumerate(self.terms):
            if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not callable(pair[1]):
                raise TypeError(f"terms[{k}]: wanted a weight and an objective, got {pair!r}")
            require_positive(pair[0], f"terms[{k}]")
        object.__setattr__(self, "terms", tuple(map(tuple, self.terms)))

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        values = [weight * objective(output, target) for weight, objective in self.terms]
        return torch.stack(values).sum(0)


@dataclass(frozen=True)
class _WithFeatures(Weighted):
    """Of gray images: a model that tells no ``channels`` is known by what it gives."""

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        _require_gray(output.shape[1])
        return super().__call__(output, target)


def _require_gray(channels: Any) -> None:
    if channels != 1:
        raise ValueError(
            f"loss: wanted a gray model for 'mse+features', whose features are those of the embedded gray "
            f"denoiser, got one for {channels} channels; fa.training.Weighted takes features of your own"
        )


def loss_of(loss: Loss, channels: Any, device: torch.device) -> Objective | None:
    """The objective that is meant; None for the mean squared error.

    Raises:
        TypeError, ValueError: neither a name nor a function, or features of gray images for another model.
    """
    if loss is None or loss == "mse":
        return None
    if loss == "mse+features":
        _require_gray(1 if channels is None else channels)
        from ..models import load

        seen = load("embedded", device=device).get_submodule("model")[:_DEPTH]  # type: ignore[index]
        return _WithFeatures(((1.0, mse), (_SHARE, features(seen, layers=_LAYERS))))
    if isinstance(loss, str) or not callable(loss) or isinstance(loss, type):
        raise ValueError(f"loss: wanted {', '.join(map(repr, NAMES))}, a function of (output, target), got {loss!r}")
    return loss


def value_of(loss: Objective, output: Tensor, target: Tensor) -> Tensor:
    """(B,) values; raises where they are something else."""
    values = loss(output, target)
    if not isinstance(values, Tensor) or values.shape != output.shape[:1]:
        came = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"loss: wanted one value for each of {len(output)} samples, got {came}")
    return values
