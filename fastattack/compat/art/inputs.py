"""The arrays of a generate() call, checked: what ART rejects, and what it accepts by accident."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...inputs import unknown_option
from .victim import Array, Victim


@dataclass(frozen=True)
class Inputs:
    """A batch, or some of its rows.

    Attributes:
        x: (N, ...) float32.
        target: what the objective compares with: labels (N,) int64, rows (N, classes) float32, or images.
        shown: the target in the form in which ART shows it to a summary writer: one-hot rows, or images.
        mask: like x, float32 as ART multiplies a random start with it, or None.
    """

    x: Array
    target: Array
    shown: Array
    mask: Array | None

    def rows(self, rows: Any) -> Inputs:
        """These samples alone."""
        mask = None if self.mask is None else self.mask[rows]
        return replace(self, x=self.x[rows], target=self.target[rows], shown=self.shown[rows], mask=mask)

    @property
    def soft(self) -> bool:
        """The targets are probabilities or one-hot rows."""
        return self.target.dtype != np.int64


def mask_in(options: Mapping[str, Any], attack: str) -> Any:
    """The one keyword that ART's generate() reads; it ignores others, misspelt ones among them."""
    if not options.keys() <= {"mask"}:
        raise unknown_option(f"{attack}.generate", options.keys() - {"mask"}, ("mask", "x", "y"))
    return options.get("mask")


def check_x(x: Any, bounds: tuple[float, float] | None) -> Array:
    """(N, ...) in float32, a copy."""
    if not isinstance(x, np.ndarray):
        raise TypeError(f"x: wanted a NumPy array, got {type(x).__name__}")
    if x.ndim < 2 or x.size == 0:
        raise ValueError(f"x: wanted a batch of samples (N, ...), got shape {x.shape}")
    if x.dtype.kind not in "fiu":
        raise TypeError(f"x: wanted numbers of one shape, got an array of {x.dtype}")
    found = np.array(x, dtype=np.float32, order="C")
    low, high = float(found.min()), float(found.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("x: wanted finite numbers, got NaN or infinity")
    if bounds is not None and (low < bounds[0] or high > bounds[1]):
        raise ValueError(f"x: wanted values inside the clip values {bounds}, got {low:g} to {high:g}")
    return found


def check_mask(mask: Any, shape: tuple[int, ...]) -> Array | None:
    """float32 of the shape of x, or None."""
    if mask is None:
        return None
    if not isinstance(mask, np.ndarray):
        raise TypeError(f"mask: wanted a NumPy array, got {type(mask).__name__}")
    if mask.dtype != bool and mask.dtype.kind != "f":
        raise ValueError(f"mask: wanted bool or floating numbers, got {mask.dtype}")
    if not bool((np.isfinite(mask) & (mask >= 0)).all()):
        raise ValueError("mask: wanted finite numbers >= 0")
    try:
        return np.array(np.broadcast_to(mask, shape), dtype=np.float32)
    except ValueError:
        raise ValueError(f"mask: wanted a shape that broadcasts to {shape}, got {mask.shape}") from None


def per_sample(value: Any, name: str, shape: tuple[int, ...]) -> float | Array:
    """A number, or (N,) numbers in float64 from an array that is the same all over each sample."""
    if not isinstance(value, np.ndarray):
        return float(value)
    if value.size == 1:
        return float(value.reshape(()))
    try:
        rows = np.broadcast_to(value, shape).reshape(shape[0], -1)
    except ValueError:
        raise ValueError(f"{name}: wanted a shape that broadcasts to {shape}, got {value.shape}") from None
    if not bool((rows == rows[:, :1]).all()):
        one = (shape[0], *[1] * (len(shape) - 1))
        raise ValueError(
            f"{name}: wanted a number, or one for each sample in an array {one}, got shape {value.shape} with others "
            "inside a sample (a mask is the way to leave pixels out)"
        )
    return np.array(rows[:, 0], dtype=np.float64)


def part(value: float | Array, rows: Any) -> float | Array:
    """The rows of what `per_sample` gives."""
    return value[rows] if isinstance(value, np.ndarray) else value


def check_images(y: Any, count: int) -> Array:
    """A restorer's targets."""
    if not isinstance(y, np.ndarray):
        raise TypeError(f"y: wanted a NumPy array of clean images, got {type(y).__name__}")
    if y.dtype.kind not in "fiu" or y.ndim < 2 or len(y) != count:
        raise ValueError(f"y: wanted {count} clean images, got shape {y.shape} {y.dtype}")
    if not bool(np.isfinite(y).all()):
        raise ValueError("y: wanted finite numbers, got NaN or infinity")
    return np.array(y, dtype=np.float32)


def check_labels(y: Any, victim: Victim, count: int) -> tuple[Array, Array]:
    """(target, shown) of a classifier, from labels (N,) or (N, 1), or rows (N, classes).

    Raises:
        IndexError: a label out of range, as in ART. TypeError, ValueError: anything else.
    """
    classes = victim.classes
    assert classes is not None, "a classifier"
    if not isinstance(y, np.ndarray):
        raise TypeError(f"y: wanted a NumPy array, got {type(y).__name__}")
    form = f"labels ({count},) or one-hot rows ({count}, {classes})"
    if y.ndim > 2:
        raise ValueError(
            f"y: wanted {form}, got shape {y.shape}; images are targets of a fastattack.compat.art.PyTorchRestorer"
        )
    if y.ndim == 0 or len(y) != count or (y.ndim == 2 and y.shape[1] not in (1, classes)) or y.dtype.kind not in "fiub":
        raise ValueError(f"y: wanted {form}, got shape {y.shape} {y.dtype}")
    if y.ndim == 1 or y.shape[1] == 1:
        return _indices(y.reshape(-1), victim, classes)
    rows = np.array(y, dtype=np.float32)
    if not bool((rows >= 0).all()) or not np.allclose(rows.sum(1), 1, atol=1e-3):
        raise ValueError("y: wanted rows of probabilities, >= 0 and of sum 1")
    hard = bool((rows == np.floor(rows)).all())
    if victim.target_form() == "rows" or (victim.target_form() == "either" and not hard):
        return rows, rows
    return rows.argmax(1).astype(np.int64), rows


def _indices(y: Array, victim: Victim, classes: int) -> tuple[Array, Array]:
    if not bool((y == np.floor(y)).all()):
        raise ValueError("y: wanted whole numbers as labels, got fractions or NaN")
    if y.min() < 0 or y.max() >= classes:
        raise IndexError(f"y: wanted labels from 0 to {classes - 1}, got {y.min()} to {y.max()}")
    labels = y.astype(np.int64)
    rows = np.eye(classes, dtype=np.float32)[labels]
    return (rows if victim.target_form() == "rows" else labels), rows


def finished(adv: Array, x32: Array, x: Array, bounds: tuple[float, float] | None) -> Array:
    """The result in float32 as ART gives it, but for float64 inputs: those keep every digit of what did not move."""
    if x.dtype != np.float64:
        return adv
    found = x + (adv.astype(np.float64) - x32)
    if bounds is None:
        return found
    return np.clip(found, np.minimum(bounds[0], x), np.maximum(bounds[1], x))
