"""foolbox.types."""

from __future__ import annotations

from typing import Any, NamedTuple, NewType


class Bounds(NamedTuple):
    """What the pixels of a model's input lie between."""

    lower: float
    upper: float


BoundsInput = Bounds | tuple[float, float]
L0 = NewType("L0", float)
L1 = NewType("L1", float)
L2 = NewType("L2", float)
Linf = NewType("Linf", float)
Preprocessing = dict[str, Any] | None
