"""What a checkpoint says of purifiers, networks and objectives: their options and their weights."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..defenses import Purifier
from .identity import digest

# The mode, hooks, parts that the layout and the tensors tell; and what torch keeps of its recurrent networks.
_OF_EVERY_MODULE = frozenset(vars(nn.Module())) | {"_compiled_call_impl", "_flat_weights", "_flat_weight_refs"}


def described(value: Any) -> Any:
    """Data for `fastattack.training.identity.plain_data`, which refuses what cannot be told from others.

    Of whatever has ``describe()`` that; of a module its class, its layout, its tensors and the attributes of its
    modules; of a dataclass the fields that it is made of; of a class or a function of a module (no lambda, no inner
    function) its name.
    """
    if callable(getattr(value, "describe", None)):
        return {"class": _name(type(value)), **value.describe()}
    if isinstance(value, nn.Module):
        return {
            "class": _name(type(value)),
            "layout": digest(repr(value).encode()),
            "tensors": dict(value.state_dict()),
            "attributes": {name: found for name, m in value.named_modules() if (found := _attributes(m))},
        }
    if is_dataclass(value) and not isinstance(value, type):
        own = {f.name: described(getattr(value, f.name)) for f in fields(value) if f.init}
        return {"class": _name(type(value)), **own}
    if isinstance(value, list | tuple):
        return [described(entry) for entry in value]
    if isinstance(value, Mapping):
        return {key: described(entry) for key, entry in value.items()}
    if isinstance(value, Path | torch.dtype | torch.device):
        return str(value)
    if _is_function(value):
        return _name(value)
    return value


def describe_purifier(purifier: Purifier) -> dict[str, Any]:
    """Options, schedule, scale and weights.

    Raises:
        TypeError: its diffusion model is no nn.Module, so that nobody could tell whether it is the same.
    """
    diffusion = purifier.diffusion
    if not isinstance(diffusion.model, nn.Module):
        raise TypeError(
            f"purifier: wanted a diffusion model that is an nn.Module, whose weights a checkpoint can compare, got "
            f"{type(diffusion.model).__name__}"
        )
    scale = ("channels", "predicts", "low", "high", "tile", "overlap", "multiple", "each_channel")
    return {
        "options": {f.name: described(getattr(purifier.options, f.name)) for f in fields(purifier.options)},
        "schedule": list(diffusion.schedule.alphas_bar),
        "scale": {name: getattr(diffusion, name) for name in scale},
        "model": described(diffusion.model),
    }


def _attributes(module: nn.Module) -> dict[str, Any]:
    """What a module's forward may read that is neither in its repr nor in its state_dict."""
    own = {name: described(entry) for name, entry in vars(module).items() if name not in _OF_EVERY_MODULE}
    left_out = module._non_persistent_buffers_set
    return own | {name: buffer for name, buffer in module._buffers.items() if name in left_out}


def _is_function(value: Any) -> bool:
    return (
        (inspect.isroutine(value) or isinstance(value, type))
        and not inspect.ismethod(value)
        and "<" not in value.__qualname__
    )


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"
