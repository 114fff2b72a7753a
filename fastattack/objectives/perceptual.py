"""Distances between a network's features of two images."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..fast.precision import settings
from ..guard import frozen
from ..models.weights import read_weights
from .base import pair, sample_mean, widened

Net = Callable[[Tensor], Any]

# The last ReLU before each pooling (and AlexNet's third and fourth) in torchvision's `features`, as LPIPS takes them.
_TRUNKS = {
    "alex": ("alexnet", ("1", "4", "7", "9", "11")),
    "vgg": ("vgg16", ("3", "8", "15", "22", "29")),
}
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


def _at_layers(net: nn.Module, layers: Sequence[str], x: Tensor) -> list[Any]:
    """What the named modules return while net(x) runs; copies, for the next module may work in place."""
    found: dict[str, list[Any]] = {name: [] for name in layers}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _module, _args, out: found[name].append(out.clone() if isinstance(out, Tensor) else out)

    handles = [net.get_submodule(name).register_forward_hook(keep(name)) for name in layers]
    try:
        net(x)
    finally:
        for handle in handles:
            handle.remove()
    for name, outputs in found.items():
        if not outputs:
            raise ValueError(f"layers: wanted modules that a forward pass of net calls, got {name!r}")
    return [out for name in layers for out in found[name]]


def _features(net: Net, layers: Sequence[str] | None, x: Tensor) -> list[Tensor]:
    if layers is not None and isinstance(net, nn.Module):
        found = _at_layers(net, layers, x)
    else:
        out = net(x)
        found = list(out.values()) if isinstance(out, Mapping) else [out] if isinstance(out, Tensor) else list(out)
    for feature in found:
        if not isinstance(feature, Tensor):
            raise TypeError(f"net: wanted a tensor or a list of tensors as features, got {type(feature).__name__}")
        if feature.dim() < 2 or feature.shape[0] != x.shape[0]:
            raise ValueError(f"net: wanted features (B, ...) of {x.shape[0]} samples, got {tuple(feature.shape)}")
    if not found:
        raise ValueError("net: wanted one tensor of features at least, got none")
    return [widened(feature) for feature in found]


_Known = tuple[object, Tensor, Hashable, list[Tensor]]
_remembered: ContextVar[dict[int, tuple[_Known, ...]] | None] = ContextVar("remembered", default=None)
_TARGETS = 2
"""An objective may compare the input with one and the output with another (MIGA)."""


@contextmanager
def remembering() -> Iterator[None]:
    """Inside, an objective makes the features of a target (the last two of them) once: an attack asks at every step.

    They are made again where the target, the network's tensors or the precision are others or have been written to.
    """
    before = _remembered.set({})
    try:
        yield
    finally:
        _remembered.reset(before)


def _known(owner: object, net: Net, given: Tensor, make: Callable[[], list[Tensor]]) -> list[Tensor]:
    """The features of the target ``given``, from memory where they are surely the same."""
    memory = _remembered.get()
    tensors = [given, *net.parameters(), *net.buffers()] if isinstance(net, nn.Module) else []
    unseen = not tensors or any(t.is_inference() for t in tensors)  # inference tensors do not count their writes
    if memory is None or unseen or (given.is_cuda and torch.cuda.is_current_stream_capturing()):
        return make()
    state = (settings(given.device), tuple((t.data_ptr(), t.dtype, t._version) for t in tensors))
    known = memory.get(id(owner), ())
    for _, target, before, found in known:
        if target is given and before == state:
            return found
    made = make()
    memory[id(owner)] = ((owner, given, state, made), *known)[:_TARGETS]  # holds the objects, so that no id comes twice
    return made


@dataclass(frozen=True)
class features:
    """The distance between net(output) and net(target), the mean over the layers.

    The network runs in eval mode and its parameters get no gradient; it is left as found after each call.

    Args:
        net: an nn.Module or callable on images that returns a tensor, a list or a dictionary of tensors (B, ...).
        layers: names of modules in net whose outputs are the features instead (net.named_modules()).
        distance: "l2", the mean squared difference of a layer, or "cosine", 1 - the cosine between a layer's features.
    """

    net: Net
    layers: Sequence[str] | None = field(default=None, kw_only=True)
    distance: str = field(default="l2", kw_only=True)

    def __post_init__(self) -> None:
        if not callable(self.net):
            raise TypeError(f"net: wanted something callable as net(images), got {type(self.net).__name__}")
        if self.distance not in ("l2", "cosine"):
            raise ValueError(f"distance: wanted 'l2' or 'cosine', got {self.distance!r}")
        if self.layers is None:
            return
        if isinstance(self.layers, str) or not self.layers:
            raise ValueError(f"layers: wanted a list of one or more names, got {self.layers!r}")
        if not isinstance(self.net, nn.Module):
            raise TypeError(f"layers: wanted None, since net is no nn.Module but a {type(self.net).__name__}")
        known = dict(self.net.named_modules())
        for name in self.layers:
            if name not in known:
                raise ValueError(f"layers: wanted names of modules in net, got {name!r}")
        object.__setattr__(self, "layers", tuple(self.layers))

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        wide, goal = pair(output, target)
        with frozen(self.net):
            with torch.no_grad():
                known = _known(self, self.net, target, lambda: _features(self.net, self.layers, goal))
            found = _features(self.net, self.layers, wide)
        return torch.stack([self._distance(a, b) for a, b in zip(found, known, strict=True)]).mean(0)

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        if self.distance == "l2":
            return sample_mean((a - b).square())
        return 1 - functional.cosine_similarity(a.flatten(1), b.flatten(1), dim=1)


def _trunk(net: str) -> tuple[nn.Module, tuple[str, ...]]:
    if net not in _TRUNKS:
        raise ValueError(f"net: wanted 'alex', 'vgg' or a callable, got {net!r}")
    name, layers = _TRUNKS[net]
    try:
        import torchvision
    except (ImportError, RuntimeError) as error:  # built for another torch, its import is a RuntimeError
        raise RuntimeError(
            f"net: {net!r} needs torchvision, which does not import here ({error}); pip install 'fastattack[lpips]', "
            "or pass the feature network itself"
        ) from error
    trunk: nn.Module = getattr(torchvision.models, name)(weights="IMAGENET1K_V1").features
    return trunk.requires_grad_(False).eval(), layers


def _lins(path: str | Path) -> list[Tensor]:
    """The channel weights of the layers, in order, each (C,)."""
    state, _ = read_weights(path)
    found = {}
    for key, value in state.items():
        if match := re.fullmatch(r"lin(\d+)\.model\.\d+\.weight", key):
            if value.dim() != 4 or value.shape != (1, value.shape[1], 1, 1):
                raise ValueError(f"weights: wanted {key} of shape (1, C, 1, 1), got {tuple(value.shape)} in {path}")
            found[int(match[1])] = value.flatten()
    if sorted(found) != list(range(len(found))) or not found:
        raise ValueError(f"weights: wanted lin0.model.1.weight, lin1.model.1.weight, ... in {path}, got {list(state)}")
    return [found[i] for i in range(len(found))]


@dataclass(frozen=True)
class lpips:
    """LPIPS of each sample (Zhang et al., arXiv 1801.03924, version 0.1).

    Features normalised over the channels, squared differences weighted by channel, the mean over positions, the sum
    over layers. Images (B, 1 or 3, H, W) in [0, 1]; they are brought to the scale of the paper's networks here.

    Args:
        weights: file of the published linear layers (alex.pth, vgg.pth of version 0.1): lin0.model.1.weight and on.
        net: "alex" or "vgg", torchvision's with the weights that it fetches for ImageNet; or a callable on the scaled
            images that returns one tensor (B, C, h, w) for each linear layer.

    Raises:
        FileNotFoundError, ValueError: the file is not there or holds something else.
        RuntimeError: "alex" or "vgg" without torchvision.
    """

    weights: str | Path
    net: str | Net = field(default="alex", kw_only=True)
    _net: Net = field(init=False, repr=False, compare=False)
    _layers: tuple[str, ...] | None = field(init=False, repr=False, compare=False)
    _lins: list[Tensor] = field(init=False, repr=False, compare=False)
    _placed: dict[tuple[torch.device, torch.dtype], list[Tensor]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        if not isinstance(self.net, str) and not callable(self.net):
            raise TypeError(f"net: wanted 'alex', 'vgg' or a callable, got {type(self.net).__name__}")
        object.__setattr__(self, "_lins", _lins(self.weights))
        net, layers = _trunk(self.net) if isinstance(self.net, str) else (self.net, None)
        object.__setattr__(self, "_net", net)
        object.__setattr__(self, "_layers", layers)

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        wide, goal = pair(output, target)
        if wide.dim() != 4 or wide.shape[1] not in (1, 3):
            raise ValueError(f"model: wanted images (B, 1 or 3, H, W) for lpips, got {tuple(wide.shape)}")
        if isinstance(self.net, str) and isinstance(self._net, nn.Module):
            self._net.to(wide.device, wide.dtype)
        shift, scale, *lins = self._constants(wide)
        with frozen(self._net):
            with torch.no_grad():
                make = lambda: _features(self._net, self._layers, (2 * goal - 1 - shift) / scale)  # noqa: E731
                known = _known(self, self._net, target, make)
            found = _features(self._net, self._layers, (2 * wide - 1 - shift) / scale)
        if len(found) != len(lins):
            raise ValueError(f"net: wanted {len(lins)} layers of features as in weights, got {len(found)}")
        return torch.stack([_weighted(*layer) for layer in zip(found, known, lins, strict=True)]).sum(0)

    def _constants(self, like: Tensor) -> list[Tensor]:
        """Shift, scale and the layers' weights on the images' device: a copy for each call would wait for it.

        From [0, 1] to what the networks were trained on; grey becomes three channels.
        """
        key = (like.device, like.dtype)
        if key not in self._placed:
            with torch.inference_mode(False):
                colours = [torch.tensor(v, device=like.device, dtype=like.dtype).reshape(1, 3, 1, 1)
                           for v in (_SHIFT, _SCALE)]  # fmt: skip
                self._placed[key] = colours + [lin.to(*key) for lin in self._lins]
        return self._placed[key]


def _weighted(a: Tensor, b: Tensor, lin: Tensor) -> Tensor:
    if a.dim() < 3 or a.shape[1] != lin.numel():
        raise ValueError(f"net: wanted features (B, {lin.numel()}, h, w) as in weights, got {tuple(a.shape)}")
    weight = lin.to(a.device, a.dtype).reshape(1, -1, *[1] * (a.dim() - 2))
    distances: Tensor = ((_unit(a) - _unit(b)).square() * weight).sum(1)
    return sample_mean(distances)


def _unit(t: Tensor) -> Tensor:
    # vector_norm, not sqrt of a sum: its gradient where a ReLU left nothing is 0, not NaN
    length: Tensor = torch.linalg.vector_norm(t, dim=1, keepdim=True)
    return t / (length + 1e-10)
