"""Whether two models or values are surely the same."""

from __future__ import annotations

from dataclasses import is_dataclass
from functools import partial
from types import BuiltinFunctionType, FunctionType, NoneType
from typing import Any

import torch
from torch import Tensor, nn

_PLAIN = (
    bool, int, float, complex, str, bytes, NoneType, set, frozenset, range, slice, BuiltinFunctionType, torch.Size,
    torch.dtype, torch.device,
)  # fmt: skip

# What nn.Module keeps for itself; parameters, buffers, children and hooks are looked at by themselves.
_OWN = frozenset(vars(nn.Module()))
_HOOKS = sorted(name for name in _OWN if "hooks" in name and "state_dict" not in name and "with_kwargs" not in name)


def difference(one: nn.Module, other: nn.Module) -> str:
    """What one module has beside parameters and buffers that the other has not, or hooks; "" where nothing is seen."""

    def tensors(m: nn.Module) -> list[Any]:
        named = [*m.named_parameters(), *m.named_buffers()]
        return [(name, t.shape, t.dtype, t.device) for name, t in named]

    ours, theirs = dict(one.named_modules()), dict(other.named_modules())
    if list(ours) != list(theirs) or tensors(one) != tensors(other):
        return "the models differ in architecture"
    for name, module in theirs.items():
        mine, place = ours[name], f"{name}." if name else ""
        if type(module) is not type(mine):
            return "the models differ in architecture"
        if any(getattr(module, hooks, None) for hooks in _HOOKS):
            return f"{name or 'a model'} has hooks"
        left, right = ({k: v for k, v in vars(m).items() if k not in _OWN} for m in (mine, module))
        for key in left.keys() | right.keys():
            if key not in left or key not in right or not alike(left[key], right[key]):
                return f"the models differ in {place}{key}"
    return ""


def alike(a: Any, b: Any) -> bool:
    """Surely the same: by value for plain data, tensors, dataclasses, partials and functions; else one object."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        same = a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
        return same and torch.equal(a.detach(), b.detach())
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(map(alike, a.values(), b.values()))
    if isinstance(a, partial):
        return alike((a.func, a.args, a.keywords), (b.func, b.args, b.keywords))
    if isinstance(a, FunctionType):  # a lambda of the factory is another object for each model
        own, others = (
            (f.__defaults__, f.__kwdefaults__, vars(f), [c.cell_contents for c in f.__closure__ or ()]) for f in (a, b)
        )
        return a.__code__ is b.__code__ and a.__globals__ is b.__globals__ and alike(own, others)
    if is_dataclass(a):
        return alike(vars(a), vars(b)) if hasattr(a, "__dict__") else False
    return isinstance(a, _PLAIN) and bool(a == b)
