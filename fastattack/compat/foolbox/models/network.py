"""What the engine attacks of a model: its network as a module, where that can be found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from ..native import unwrap
from .base import PreprocessArgs, TransformBoundsWrapper, preprocess, rescale
from .pytorch import PyTorchModel

Ranges = tuple[tuple[float, float], tuple[float, float]]


class Preprocessed(nn.Module):
    """A network behind a model's preprocessing.

    Args:
        ranges: (from, to) that the inputs are rescaled between first, or None. arguments: mean, std, flip_axis.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(self, network: nn.Module, ranges: Ranges | None, arguments: PreprocessArgs) -> None:
        super().__init__()
        self.network = network
        self.ranges = ranges
        mean, std, self.flip_axis = arguments
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, x: Tensor) -> Any:
        x = x if self.ranges is None else rescale(x, *self.ranges)
        return self.network(preprocess(x, self.mean, self.std, self.flip_axis))


_known: WeakKeyDictionary[Any, tuple[list[Any], nn.Module]] = WeakKeyDictionary()


def network_of(model: Any) -> nn.Module | Callable[[Tensor], Any]:
    """A module that does what the model does to torch tensors; where its class is not one of ours or foolbox's, and
    may do anything, a function that calls it.

    The same module again for the same model, so that what the engine has found out about it holds.
    """
    parts = _parts(model)
    if parts is None:
        return lambda x: unwrap(model(x), "model")
    network, ranges, (mean, std, flip_axis) = parts
    if ranges is None and mean is None and std is None and flip_axis is None:
        return network
    now = [network, mean, std, flip_axis, ranges]
    before = _known.get(model)
    if before is None or not _same(before[0], now):
        _known[model] = before = (now, Preprocessed(network, ranges, (mean, std, flip_axis)))
    before[1].training = network.training  # the wrapper's flag follows; the network's own are not touched
    return before[1]


def _same(before: list[Any], now: list[Any]) -> bool:
    tensors = all(a is b for a, b in zip(before[:3], now[:3], strict=True))
    return tensors and before[3:] == now[3:]


def _parts(model: Any) -> tuple[nn.Module, Ranges | None, PreprocessArgs] | None:
    name, home = type(model).__name__, type(model).__module__
    if "_preprocess" in getattr(model, "__dict__", {}):  # somebody's own
        return None
    if name == "TransformBoundsWrapper" and home in (TransformBoundsWrapper.__module__, "foolbox.models.base"):
        inner = _parts(model._model)
        if inner is None or inner[1] is not None:
            return None
        have, want = tuple(model.bounds), tuple(model._model.bounds)
        return inner[0], None if have == want else (have, want), inner[2]
    if name == "PyTorchModel" and home in (PyTorchModel.__module__, "foolbox.models.pytorch"):
        network = _enclosed(model._model)
        mean, std, flip_axis = model._preprocess_args
        mean, std = (getattr(v, "raw", v) for v in (mean, std))
        return None if network is None else (network, None, (mean, std, flip_axis))
    return None


def _enclosed(call: Any) -> nn.Module | None:
    """The one module in a function's closure."""
    cells = getattr(call, "__closure__", None) or ()
    found = [cell.cell_contents for cell in cells if isinstance(cell.cell_contents, nn.Module)]
    return found[0] if len(found) == 1 else None
