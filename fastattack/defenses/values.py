"""Values of a defence's text; what cannot be one raises ValueError with the words of what was wanted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable


def whole(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("wanted a whole number >= 0")
    return int(text)


def level(text: str) -> float:
    """A noise level on the 0-255 scale."""
    value = number(text)
    if not 0 <= value <= 255:
        raise ValueError("wanted a noise level on the 0-255 scale, from 0 to 255")
    return value


def number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError("wanted a number")
    return value


def one_of(known: Iterable[str]) -> Callable[[str], str]:
    names = tuple(known)

    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"wanted one of {', '.join(names)}")
        return text

    return parse
