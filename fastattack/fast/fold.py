"""Batch norms folded into the convolutions before them, in a copy that shares everything else."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Hashable
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
Pairs = list[tuple[str, str, str]]
"""Names: of the part inside whose calls a convolution and the batch norm behind it are one, and of these two."""

_known: WeakKeyDictionary[nn.Module, tuple[Hashable, Pairs]] = WeakKeyDictionary()


def has_hooks(model: nn.Module) -> bool:
    """Hooks must see the module that they were put on."""
    everywhere = torch.nn.modules.module
    if any(getattr(everywhere, "_global" + name, None) for name in HOOKS):
        return True
    return any(getattr(m, name, None) for m in model.modules() for name in HOOKS)


def can_be_copied(model: nn.Module) -> bool:
    """Hooks must see the module that they were put on, and scripted modules are no Python. A module that handles its
    attributes itself may hand them to another one, as what torch.compile returns does to the user's module."""
    return not has_hooks(model) and not any(
        isinstance(m, torch.jit.ScriptModule) or _own(type(m)) for m in model.modules()
    )


def _own(kind: type) -> bool:
    return any(getattr(kind, name) is not getattr(nn.Module, name) for name in ("__setattr__", "__getattr__"))


def fingerprint(model: nn.Module) -> Hashable:
    """What a model's structure follows from: its modules, their modes and their plain attributes; not its weights.

    Not all of it: a forward method may read a dictionary or a closure. What is kept under it must be checked again.
    """
    plain = (int, float, bool, str, type(None))
    return tuple(
        (name, id(m), type(m), tuple((k, v) for k, v in vars(m).items() if isinstance(v, plain)))
        for name, m in model.named_modules(remove_duplicate=False)
    )


def pairs_of(model: nn.Module, *, fresh: bool = False) -> Pairs:
    """The pairs to fold, for a model in eval mode; found once for each fingerprint, or again where ``fresh``."""
    if not any(type(m) in NORMS for m in model.modules()):
        return []
    now = fingerprint(model)
    before = _known.get(model)
    if fresh or before is None or before[0] != now:
        names = Counter(m for _, m in model.named_modules(remove_duplicate=False))
        twin = folded(model, [])  # tracing runs forward methods, and what they leave behind must not stay in the model
        found = [p for p in _search(twin, "") if names[model.get_submodule(p[1])] == 1]
        found = [p for p in found if _exact(model.get_submodule(p[1]), model.get_submodule(p[2]))]
        _known[model] = before = (now, found)
    return before[1]


def _search(module: nn.Module, scope: str) -> Pairs:
    """Pairs of a module that fx can trace whole; else of a Sequential's neighbours, and of the parts.

    What calls a part may also use the part's modules one by one, so its pairs are pairs in calls of the part alone.
    """
    prefix = f"{scope}." if scope else ""
    try:
        return [(scope, prefix + c, prefix + n) for c, n in _traced(module, whole=not scope)]
    except Exception:  # whatever a forward method raises when it is handed proxies
        parts = list(module.named_children())
        found: Pairs = []
        if type(module) is nn.Sequential and "forward" not in vars(module):
            near = pairwise(module._modules.items())
            names = [(a, b) for (a, p), (b, q) in near if type(p) in CONVS and type(q) in NORMS]
            found = [(scope, prefix + a, prefix + b) for a, b in names]
        for name, part in parts:
            found += _search(part, prefix + name) if any(part.children()) else []
        return found


def _attributes(module: nn.Module) -> list[Any]:
    """All that the modules' attributes hold, and what is in the containers among them."""
    found: list[Any] = []
    for m in module.modules():
        for name, value in vars(m).items():
            found += [name, value]
            found += [*value, *value.values()] if isinstance(value, dict) else []
            found += [*value] if isinstance(value, (list, set)) else []
    return found


def _traced(module: nn.Module, *, whole: bool) -> list[tuple[str, str]]:
    """Pairs in which the norm is the only one to see the convolution's output, and both are called once.

    Raises:
        Exception: fx cannot trace it, or it is but a part and leaves attributes for others to read.
    """
    if any("forward" in vars(m) for m in module.modules()):  # fx would trace the class's
        raise TypeError("forward methods of instances")
    before = _attributes(module)
    graph = fx.Tracer().trace(module)
    after = _attributes(module)
    if not whole and (len(before) != len(after) or any(a is not b for a, b in zip(before, after, strict=True))):
        raise TypeError("attributes written")
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    direct = [str(node.target) for node in graph.nodes if node.op == "get_attr"]
    found: list[tuple[str, str]] = []
    for node in graph.nodes:
        if node.op != "call_module" or type(module.get_submodule(str(node.target))) not in NORMS:
            continue
        conv = node.args[0] if len(node.args) == 1 else None
        if not isinstance(conv, fx.Node) or conv.op != "call_module" or len(conv.users) != 1:
            continue
        first, second = str(conv.target), str(node.target)
        if type(module.get_submodule(first)) not in CONVS or calls[first] != 1 or calls[second] != 1:
            continue
        if not any(name.startswith((first + ".", second + ".")) for name in direct):
            found.append((first, second))
    return found


def _exact(conv: nn.Module, norm: nn.Module) -> bool:
    """The norm has statistics of its own, of as many channels, and both are what their class makes of them."""
    if "forward" in vars(conv) or "forward" in vars(norm) or norm.training:
        return False
    mean, weight = norm._buffers.get("running_mean"), conv._parameters.get("weight")
    return mean is not None and weight is not None and weight.dtype == mean.dtype and len(mean) == len(weight)


def _reorders() -> bool:
    """The CPU is of the kind where oneDNN's convolutions with more weights than input pay for their weights' order."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")


class Laid(nn.Conv2d):
    """Works in channels_last, also where a model lost it on the way.

    On a CPU with AVX-512, in the standard format where its weights outweigh the input, because oneDNN reorders them at
    each call. On other CPUs its weights are in channels_last themselves (measured with AVX2: 1.09 times as fast on
    ResNet-18 as with either choice there, the same on networks with few weights).
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() == 4:
            wide = input.device.type == "cpu" and self.weight.numel() > input.numel() and _reorders()
            input = input.contiguous(memory_format=torch.contiguous_format if wide else torch.channels_last)
        return super().forward(input)


Swaps = dict[nn.Module, nn.Module]


def folded(model: nn.Module, pairs: Pairs, *, images: bool = False) -> nn.Module:
    """A copy of the model's modules with the same parameters and buffers, but for the folded convolutions'.

    ``images``: its two-dimensional convolutions work in channels_last; their weights are copied where `Laid` says.
    """
    swaps: dict[nn.Module, Swaps] = {}
    for scope, first, second in pairs:
        conv, norm = model.get_submodule(first), model.get_submodule(second)
        merged = _merged(conv, norm)
        swaps.setdefault(model.get_submodule(scope), {}).update({conv: _laid(merged, images), norm: nn.Identity()})
    return _replica(model, swaps.pop(model, {}), swaps, images)


def _replica(module: nn.Module, done: Swaps, scopes: dict[nn.Module, Swaps], images: bool) -> nn.Module:
    """The module's twin; ``done``: twins that are there already, ``scopes``: what is another one inside a part's calls.

    A part with a scope gets two twins: a plain one, whose parts others may use, and behind its forward the folded one.
    """
    if module not in done:
        twin = done[module] = _laid(_shell(module), images)
        parts = module._modules.items()
        vars(twin)["_modules"] = {k: None if m is None else _replica(m, done, scopes, images) for k, m in parts}
        swaps = scopes.get(module)
        if swaps is not None:
            same = {m: t for m, t in done.items() if m is not module and not any(p in swaps for p in m.modules())}
            rest = {m: s for m, s in scopes.items() if m is not module}
            vars(twin)["forward"] = _replica(module, same | swaps, rest, images)
    return done[module]


def _laid(module: Any, images: bool) -> Any:
    if not images or type(module) not in (nn.Conv2d, nn.ConvTranspose2d) or "forward" in vars(module):
        return module
    if type(module) is nn.Conv2d:
        module.__class__ = Laid
    if module.weight.device.type == "cpu" and not _reorders():
        there = module.weight.detach().contiguous(memory_format=torch.channels_last)
        module._parameters["weight"] = nn.Parameter(there, requires_grad=False)
    return module


def _shell(module: nn.Module) -> Any:
    """A module of its own with the same contents; lists and dictionaries are copied, tensors shared."""
    twin = module.__new__(type(module))
    twin.__dict__.update({k: copy.copy(v) if isinstance(v, (dict, list, set)) else v for k, v in vars(module).items()})
    return twin


@torch.no_grad()
def _merged(conv: nn.Module, norm: Any) -> nn.Module:
    """norm(conv(x)) as one convolution; the factors in float64, so that weights are rounded once."""
    twin = _shell(conv)
    scale: Tensor = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.double()
    bias = (0 if twin.bias is None else twin.bias.double()) - norm.running_mean.double()
    bias = bias * scale + (0 if norm.bias is None else norm.bias.double())
    weight = twin.weight * scale.to(twin.weight.dtype).reshape(-1, *[1] * (twin.weight.dim() - 1))
    twin._parameters["weight"] = nn.Parameter(weight, requires_grad=False)
    twin._parameters["bias"] = nn.Parameter(bias.to(weight.dtype), requires_grad=False)
    return twin  # type: ignore[no-any-return]
