"""Numbers that a sample may draw for itself: a level, a typicality or a mean given as an interval."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from . import check
from .backend import Scalar
from .reference_random import STREAM_TYPICAL_NOISE, sample_words

SLOTS = ("sigma", "typicality", "mean")
"""What a sample draws, in the order of the words of its last counter."""

LAST = 0xFFFFFFFF  # the counter that no element of a sample reaches


def interval_of(value: Any, name: str) -> tuple[float, float] | None:
    """(low, high) where ``value`` is an interval, None where it is a number or a tensor."""
    if not isinstance(value, (tuple, list)):
        return None
    try:
        low, high = (float(v) for v in value if not isinstance(v, (bool, str)))
    except (TypeError, ValueError):
        raise TypeError(f"{name}: wanted a number, a (B,) tensor or an interval (low, high), got {value!r}") from None
    if not low <= high or math.isinf(low) or math.isinf(high):
        raise ValueError(f"{name}: wanted an interval (low, high) with low <= high, both finite, got ({low}, {high})")
    return low, high


def draw(value: Any, name: str, like: Tensor, seed: int, ids: Tensor | None) -> Scalar:
    """A number or (B,) tensor as float64; an interval becomes uniform numbers (B,), one for each sample.

    The draw is Philox 4x32-10 of (seed, sample id): the same in every batch split and on every device.
    """
    ends = interval_of(value, name)
    if ends is None:
        return check.per_sample(value, name, like, nan=name == "typicality")
    low, high = ends
    if low == high:
        return low
    if ids is None:
        ids = torch.arange(like.shape[0], device=like.device)
    last = torch.tensor([LAST], device=like.device)
    word = sample_words(last, ids, seed, STREAM_TYPICAL_NOISE)[:, 0, SLOTS.index(name)]
    uniform = ((word >> 8).double() + 0.5) * 2.0**-24
    return low + (high - low) * uniform
