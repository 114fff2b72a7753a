"""Which image of a pair an attack may change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..engine.part import Part

SIDES = {"moving": slice(0, 1), "fixed": slice(1, 2), "both": slice(0, 2)}
"""The channels of a pair that are attacked."""


def check_pair(pair: Any, name: str = "pair") -> int:
    """The number of spatial axes, 2 or 3.

    Raises:
        TypeError, ValueError: something else than a floating tensor (B, 2, *spatial).
    """
    if not isinstance(pair, Tensor):
        raise TypeError(f"{name}: wanted a tensor (B, 2, *spatial), got {type(pair).__name__}")
    if pair.dim() not in (4, 5) or pair.shape[1] != 2 or not len(pair) or not pair.is_floating_point():
        raise ValueError(
            f"{name}: wanted floating images (B, 2, H, W) or (B, 2, D, H, W), moving and fixed, got "
            f"{tuple(pair.shape)} {pair.dtype}"
        )
    return pair.dim() - 2


def check_dims(model: Any, pair: Tensor) -> None:
    """Raises ValueError where the model tells that it is for images of other dimensions."""
    dims = getattr(model, "dims", None)
    if isinstance(dims, int) and dims != pair.dim() - 2:
        raise ValueError(
            f"pair: wanted images of {dims} dimensions, which {type(model).__name__} takes, got {tuple(pair.shape)}"
        )


def channels_of(side: str) -> slice:
    """Of a pair. Raises ValueError for a side that there is not."""
    if side not in SIDES:
        raise ValueError(f"side: wanted one of {', '.join(map(repr, SIDES))}, got {side!r}")
    return SIDES[side]


def one_side(model: Callable[[Tensor], Any], pair: Tensor, side: str, *, ids: Tensor | None = None) -> Part:
    """A registration model as one of one image alone, whose partners are those in ``pair``.

    What comes out is a model like any other: every attack, ball and noise constraint takes it, `strength_check` too.
    An attack's batch may be cut in whatever way; its ``sample_ids`` must be ``ids``. `fastattack.Universal` names
    samples by their place: give it the images as one tensor, in order. Called outside of an attack it wants all B.

    Args:
        model: called as model(pair) -> field.
        pair: (B, 2, *spatial); of the attacked side only the shape counts.
        side: "moving" or "fixed": what the model is called with, (B, 1, *spatial).
        ids: (B,) the samples' names; None: 0 .. B-1.

    Raises:
        TypeError, ValueError: no pair, another side ("both": attack the model itself), names that repeat.
    """
    check_pair(pair)
    if channels_of(side) == SIDES["both"]:
        raise ValueError("side: wanted 'moving' or 'fixed' (for both attack the model on the pair), got 'both'")
    return Part(model, pair, SIDES[side], ids=ids)
