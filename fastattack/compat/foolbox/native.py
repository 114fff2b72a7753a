"""Tensors in and out: torch's, or eagerpy's around them where the caller uses eagerpy. eagerpy is never imported."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor


def is_eagerpy(value: Any) -> bool:
    """One of eagerpy's tensors, around whatever."""
    return type(value).__module__.partition(".")[0] == "eagerpy" and hasattr(value, "raw")


def unwrap(value: Any, name: str) -> Tensor:
    """The torch tensor that ``value`` is or holds.

    Raises:
        ValueError: it is no tensor, or one of another framework.
    """
    raw = value.raw if is_eagerpy(value) else value
    if not isinstance(raw, Tensor):
        raise ValueError(f"{name}: wanted a torch tensor (or eagerpy's around one), got {type(raw).__name__}")
    return raw


def like(value: Any) -> Callable[[Tensor], Any]:
    """What gives a torch tensor the type of ``value``."""
    return type(value) if is_eagerpy(value) else _same


def eagerpy(tensor: Tensor) -> Any:
    """In eagerpy's clothes where eagerpy is loaded; else as it is."""
    loaded = sys.modules.get("eagerpy")
    return tensor if loaded is None else loaded.astensor(tensor)


def _same(tensor: Tensor) -> Tensor:
    return tensor
