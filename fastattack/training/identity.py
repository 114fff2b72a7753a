"""What a run is, as data that a checkpoint can hold, load without running code, and compare."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..ops.spectrum import PRESETS, Spectrum, radial_frequency

_LONG = 32  # a longer sequence is held as a checksum
_FUNCTION_AT = (64, 64)  # the image size at whose frequencies a function is told from others


def plain_data(value: Any, name: str) -> Any:
    """Python's own numbers, words, lists and dicts; of tensors, arrays and long sequences shape, type and checksum.

    NumPy's numbers are subclasses of Python's or look like them, but weights_only loading refuses them.

    Args:
        value: what to hold.
        name: of the entry, for the error.

    Raises:
        TypeError: something else (a function, say), whose text may differ from process to process; names the entry.
    """
    if value is None or isinstance(value, bool | np.bool_):
        return None if value is None else bool(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return "nan" if math.isnan(value) else float(value)  # NaN would differ from itself
    if isinstance(value, Tensor) or (isinstance(value, np.ndarray) and not value.dtype.hasobject):
        return checksum(value)
    if isinstance(value, Mapping):
        return {_key(k, name): plain_data(v, f"{name}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        found = [plain_data(v, f"{name}[{k}]") for k, v in enumerate(value)]
        return found if len(found) <= _LONG else f"{len(found)} entries {digest(repr(found).encode())}"
    raise TypeError(
        f"{name}: wanted numbers, words, None, tensors, arrays, or lists and dicts of them, which a checkpoint can "
        f"compare, got {type(value).__name__}"
    )


def identity_of(**parts: Any) -> dict[str, Any]:
    """Plain data of a run's parts, each of which describes itself by a dict."""
    for name, part in parts.items():
        if not isinstance(part, Mapping):
            raise TypeError(f"{name}: wanted a dict from describe(), got {type(part).__name__}")
    return {name: plain_data(part, name) for name, part in parts.items()}


def checksum(value: Tensor | np.ndarray[Any, Any]) -> str:
    """Shape, number type and the first 64 bits of the SHA-256."""
    if isinstance(value, Tensor):
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    else:
        data = value.tobytes()
    return f"{tuple(value.shape)} {value.dtype} {digest(data)}"


def describe_spectrum(spectrum: Spectrum | None) -> dict[str, Any] | None:
    """Share and power: of a function the values at fixed frequencies, of all else its own.

    A function's own text is an address, that of an array is abbreviated, and a preset's numbers may change with the
    version of this package.
    """
    if spectrum is None:
        return None
    power: Any = spectrum.power
    label = ""
    if isinstance(power, str):
        label, power = f"{power} ", PRESETS[power].power
    elif callable(power):
        label, power = "function ", power(radial_frequency(*_FUNCTION_AT))
        if not isinstance(power, Tensor):
            raise TypeError(f"spectrum: wanted a function that gives a tensor, got {type(power).__name__}")
    try:
        values = power.detach().double() if isinstance(power, Tensor) else torch.tensor(np.array(power, np.float64))
    except (TypeError, ValueError):
        raise TypeError(f"spectrum: wanted band powers, a map, a function or a preset, got {power!r}") from None
    return {"power": label + checksum(values), "share": spectrum.share}


def _key(key: Any, name: str) -> str:
    if not isinstance(key, str | int | np.integer):
        raise TypeError(f"{name}: wanted words or whole numbers as keys, got {type(key).__name__}")
    return str(key)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
