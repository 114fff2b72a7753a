"""Norms of perturbations, and what a ball of one norm says of another's."""

from __future__ import annotations

import math
from typing import Any

Norm = str | float
"""\"l1\", \"l2\", \"linf\", or a number p >= 1 for lp."""

_NAMED = {"l1": 1.0, "l2": 2.0, "linf": math.inf}


def exponent(norm: Any, name: str = "norm") -> float:
    """p of an lp norm.

    Raises:
        ValueError: no such norm.
    """
    if isinstance(norm, str) and norm in _NAMED:
        return _NAMED[norm]
    if isinstance(norm, (int, float)) and not isinstance(norm, bool) and norm >= 1:
        return float(norm)
    raise ValueError(f"{name}: wanted 'l1', 'l2', 'linf' or a number p >= 1, got {norm!r}")


def inner_radius(source: float, target: float, dim: int) -> float:
    """The largest ball of the ``target`` exponent inside the unit ball of the ``source`` exponent, in dim dimensions.

    1 / max |x|_source over |x|_target <= 1: 1 where source >= target, else dim^(1/target - 1/source).
    """
    return 1.0 if source >= target else float(dim ** (_inverse(target) - _inverse(source)))


def length_of(entries: int, norm: float) -> float:
    """|(1, ..., 1)|_norm of so many entries."""
    return float(entries ** _inverse(norm))


def _inverse(p: float) -> float:
    return 0.0 if math.isinf(p) else 1 / p
