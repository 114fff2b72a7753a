"""What a checkpoint says of purifiers, networks and objectives: their options and their weights."""

from __future__ import annotations

import inspect
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..defenses import Purifier
from .identity import digest


def described(value: Any) -> Any:
    """Data for `fastattack.training.identity.plain_data`, which refuses what cannot be told from others.

    Of whatever has ``describe()`` that; of a module its class, its layout and its tensors; of a dataclass the fields
    that it is made of; of a function of a module (no lambda, no inner function) its name.
    """
    if callable(getattr(value, "describe", None)):
        return {"class": _name(type(value)), **value.describe()}
    if isinstance(value, nn.Module):
        return {
            "class": _name(type(value)),
            "layout": digest(repr(value).encode()),
            "tensors": dict(value.state_dict()),
        }
    if is_dataclass(value) and not isinstance(value, type):
        own = {f.name: described(getattr(value, f.name)) for f in fields(value) if f.init}
        return {"class": _name(type(value)), **own}
    if isinstance(value, list | tuple):
        return [described(entry) for entry in value]
    if isinstance(value, Path):
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


def _is_function(value: Any) -> bool:
    return inspect.isroutine(value) and not inspect.ismethod(value) and "<" not in value.__qualname__


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"
