"""Numbers as people write them: "5/255" as well as 0.0196."""

from __future__ import annotations

import math


def parse_number(text: str | float, name: str = "value") -> float:
    """A finite float from "0.02", "5/255" or a number.

    Raises:
        ValueError: anything else; the message names the argument.
    """
    try:
        if isinstance(text, str) and "/" in text:
            top, bottom = text.split("/")
            number = float(top) / float(bottom)
        else:
            number = float(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{name}: wanted a number such as 0.02 or 5/255, got {text!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"{name}: wanted a finite number, got {text!r}")
    return number
