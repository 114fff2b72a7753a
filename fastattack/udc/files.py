"""Point spread functions that were measured: what one must be, and how it is read from a file."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..images import read_image
from ..models.weights import read_weights

NAME = "psf"
SUFFIXES = (".npy", ".npz", ".png", ".safetensors")


def normalised(given: Any, name: str = "psf") -> Tensor:
    """A point spread function (C, h, w) in float64 on the CPU, each channel's sum 1.

    Args:
        given: (h, w) or (C, h, w), C 1 or 3; tensor or array, >= 0, h and w odd.
        name: for the error.

    Raises:
        TypeError, ValueError: anything else.
    """
    try:
        found = torch.as_tensor(given).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name}: wanted an array (h, w) or (C, h, w), got {type(given).__name__}") from None
    found = _real(found, name)
    if found.dim() == 2:
        found = found[None]
    if found.dim() != 3 or found.shape[0] not in (1, 3) or found.numel() == 0:
        raise ValueError(f"{name}: wanted (h, w) or (C, h, w) with C 1 or 3, got {tuple(found.shape)}")
    _require_light(found, name)
    if found.shape[1] % 2 == 0 or found.shape[2] % 2 == 0:
        raise ValueError(
            f"{name}: wanted an odd height and width, so that there is a pixel in the middle, got "
            f"{tuple(found.shape[1:])}; read_psf(FILE, size=...) cuts one around the brightest pixel"
        )
    return found / found.sum((1, 2), keepdim=True)


def _real(found: Tensor, name: str) -> Tensor:
    if found.is_complex():
        raise TypeError(f"{name}: wanted real numbers, got {found.dtype}")
    return found.double()


def _require_light(found: Tensor, name: str) -> None:
    if not bool(found.isfinite().all()):
        raise ValueError(f"{name}: wanted finite numbers, got NaN or infinity")
    if float(found.min()) < 0:
        raise ValueError(f"{name}: wanted numbers >= 0 (it is light), got a smallest of {float(found.min()):g}")
    if not bool((found.sum((1, 2)) > 0).all()):
        raise ValueError(f"{name}: wanted some light in each channel, got 0 everywhere")


def read_psf(path: str | Path, *, size: int | None = None) -> Tensor:
    """A point spread function from a file, (C, h, w) float64 on the CPU; each channel's sum is 1.

    Args:
        path: .npy; .npz or .safetensors with one array, or one called "psf"; .png of 8 or 16 bits, taken as linear.
            Arrays are (h, w), (C, h, w) or (h, w, 3).
        size: cut a square of this odd edge around the brightest pixel (of all channels together). Files of even size
            (DISCNet's are 800 x 800) need it, for they have no pixel in the middle.

    Raises:
        FileNotFoundError: no such file.
        TypeError, ValueError: another kind of file, or what it holds is no point spread function; it is named.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"psf: no such file: {path}")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"psf: wanted a {', '.join(SUFFIXES)} file, got {path}")
    found = _array(path)
    if found.dim() == 3 and found.shape[0] not in (1, 3) and found.shape[2] == 3:
        found = found.permute(2, 0, 1)
    name = f"psf: {path}"
    return normalised(found if size is None else _cut(found, size, name), name)


def _array(path: Path) -> Tensor:
    if path.suffix == ".png":
        channels = read_image(path, 3).double()  # a gray image three times
        return channels[:1] if bool((channels == channels[:1]).all()) else channels
    if path.suffix == ".safetensors":
        arrays: dict[str, Any] = dict(read_weights(path)[0])
    else:
        try:
            content = np.load(path, allow_pickle=False)
            if isinstance(content, np.ndarray):
                arrays = {NAME: content}
            else:
                with content:
                    arrays = dict(content)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"psf: {path}: cannot be read as an array: {error}") from error
    if NAME not in arrays and len(arrays) != 1:
        raise ValueError(f"psf: {path}: wanted one array or one called {NAME!r}, got {', '.join(arrays) or 'none'}")
    found = arrays.get(NAME, next(iter(arrays.values())))
    if isinstance(found, np.ndarray) and found.dtype.kind not in "biuf":
        raise TypeError(f"psf: {path}: wanted an array of numbers, got {found.dtype}")
    return (
        torch.as_tensor(np.asarray(found, dtype=np.float64))
        if isinstance(found, np.ndarray)
        else _real(found, f"psf: {path}")
    )


def _cut(found: Tensor, size: int, name: str) -> Tensor:
    if isinstance(size, bool) or not isinstance(size, int) or size < 1 or size % 2 == 0:
        raise ValueError(f"size: wanted an odd whole number >= 1, got {size!r}")
    found = found[None] if found.dim() == 2 else found
    if found.dim() != 3:
        raise ValueError(f"{name}: wanted (h, w) or (C, h, w), got {tuple(found.shape)}")
    if not bool(found.isfinite().all()):
        raise ValueError(f"{name}: wanted finite numbers, got NaN or infinity")
    light = found.sum(0)
    top, left = (int(n) - size // 2 for n in divmod(int(light.argmax()), light.shape[1]))
    if top < 0 or left < 0 or top + size > light.shape[0] or left + size > light.shape[1]:
        raise ValueError(
            f"size: wanted a square of {size} around the brightest pixel, which does not lie in {tuple(light.shape)}"
        )
    return found[:, top : top + size, left : left + size]
