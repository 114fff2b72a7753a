"""Point spread functions of displays by Fraunhofer diffraction."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..ops import check

Floats = npt.NDArray[np.float64]
Wavelengths = float | Sequence[float]

SAMPLES = 48  # of a named layout's cell, along each side
GREEN = (530e-9,)
LEAST, PER_FRINGE = 12, 3  # points that a pixel is averaged over, along its side
SHAPES = ("square", "round")


def _toled() -> Floats:
    """An open stripe along every column of pixels, 21 % of the area."""
    columns = np.arange(SAMPLES) < round(0.21 * SAMPLES)
    return np.tile(columns.astype(np.float64), (SAMPLES, 1))


def _poled() -> Floats:
    """Two diamonds a cell, staggered as the subpixels of a pentile display are, 23 % of the area."""
    places = (np.arange(SAMPLES) + 0.5) / SAMPLES
    across = [np.abs(places - centre) for centre in (0.25, 0.75)]
    reach = math.sqrt(0.23 / 4)
    first, second = (d[:, None] + d[None, :] <= reach for d in across)
    return (first | second).astype(np.float64)


LAYOUTS: dict[str, Callable[[], Floats]] = {"toled": _toled, "poled": _poled}


def layout(name: str) -> Tensor:
    """The transmission (48, 48) of one cell of a display, float64, 1 where it is open.

    "toled" (stripes) and "poled" (pentile) are schematic: they have the symmetry and about the open area of the two
    displays of Zhou et al. (arXiv 2003.04857), not their measured patterns.

    Raises:
        ValueError: another name.
    """
    if name not in LAYOUTS:
        raise ValueError(f"layout: wanted one of {', '.join(map(repr, LAYOUTS))}, or a 2-D array, got {name!r}")
    return torch.from_numpy(LAYOUTS[name]())


def psf(
    layout: str | Any,
    *,
    size: int = 33,
    wavelengths: Sequence[Wavelengths] = (GREEN,),
    pitch: float = 168e-6,
    distance: float = 4e-3,
    pixel: float = 2.8e-6,
    cells: int = 6,
    aperture: str = "square",
    oversample: int | None = None,
) -> Tensor:
    """The point spread function of a display in front of a lens, by Fraunhofer diffraction.

    At s in the focal plane the amplitude is the Fourier transform of the transmission at the frequency s / (lambda
    distance); its square, averaged over each pixel of the sensor, is the light that arrives (Goodman, Introduction to
    Fourier Optics, 5.2; Zhou et al., arXiv 2003.04857, section 3). The transmission is constant over each sample of the
    layout, so its transform is exact. Wavelengths of one channel have the same light; the lens itself is perfect.

    Args:
        layout: "toled", "poled", or the amplitude transmission of one cell of the display, (h, w) numbers from 0 to 1.
        size: of the result, in pixels of the sensor, odd. What falls outside is left out.
        wavelengths: in metres, one entry for each channel; an entry of several is their incoherent sum.
        pitch: width of a cell, in metres; a sample of the layout is a square of pitch / w.
        distance: from the display to the sensor, the focal length of the lens behind it, in metres.
        pixel: width of a pixel of the sensor, in metres.
        cells: across the aperture, and along it.
        aperture: "square", or "round": the disc in that square.
        oversample: points along each side of a pixel over which the intensity is averaged; 1 takes its middle. None:
            three to each of the finest fringes, lambda distance / (cells pitch), and 12 at least.

    Returns:
        (channels, size, size) float64 on the CPU; each channel's sum is 1.

    Raises:
        TypeError, ValueError: an argument that cannot be; it is named. So are several points that lie further apart
            than the finest fringes: their average would be another.
    """
    cell = _transmission(layout)
    for name, value, least in (
        ("size", size, 1),
        ("cells", cells, 1),
        ("oversample", 1 if oversample is None else oversample, 1),
    ):
        if check.whole(value, name, 31) < least:
            raise ValueError(f"{name}: wanted a whole number >= {least}, got {value!r}")
    if size % 2 == 0:
        raise ValueError(f"size: wanted an odd number, so that there is a pixel in the middle, got {size}")
    for name, length in (("pitch", pitch), ("distance", distance), ("pixel", pixel)):
        _require_length(length, name)
    if aperture not in SHAPES:
        raise ValueError(f"aperture: wanted 'square' or 'round', got {aperture!r}")
    mask = np.tile(cell, (cells, cells))
    step = pitch / cell.shape[1]
    if aperture == "round":
        mask = mask * _disc(*mask.shape)
        if not mask.any():
            raise ValueError("aperture: wanted some open part of the layout in the disc, got none")
    groups = _groups(wavelengths)
    fringes = pixel * max(mask.shape) * step / (min(map(min, groups)) * distance)
    oversample = _points(oversample, fringes)
    points = (np.arange(size * oversample) - (size * oversample - 1) / 2) * pixel / oversample
    # Divided by wave^2, the pattern that is so much larger holds the same light.
    channels = [
        np.mean([_intensity(mask, points / (wave * distance), step) / wave**2 for wave in group], axis=0)
        for group in groups
    ]
    binned = np.stack(channels).reshape(len(channels), size, oversample, size, oversample).mean((2, 4))
    return torch.from_numpy(binned / binned.sum((1, 2), keepdims=True))


def _points(oversample: int | None, fringes: float) -> int:
    """Along the side of a pixel that holds so many of the finest fringes."""
    if oversample is None:
        return max(LEAST, math.ceil(PER_FRINGE * fringes))
    if 1 < oversample < fringes:
        raise ValueError(
            f"oversample: wanted 1 (the middle of a pixel), None or at least {math.ceil(fringes)}, one point to each "
            f"fringe, got {oversample}"
        )
    return oversample


def _intensity(mask: Floats, frequencies: Floats, step: float) -> Floats:
    """|transform|^2 of a mask of squares at pairs of frequencies, as a share of the light that comes through."""
    down, across = (_waves(n, frequencies, step) for n in mask.shape)
    field = down @ mask @ across.T
    intensity: Floats = (field.real**2 + field.imag**2) / (mask**2).sum()
    return intensity


def _waves(count: int, frequencies: Floats, step: float) -> npt.NDArray[np.complex128]:
    """(frequencies, count): the transform of each of ``count`` neighbouring samples."""
    places = (np.arange(count) - (count - 1) / 2) * step
    envelope = step * np.sinc(frequencies * step)
    waves: npt.NDArray[np.complex128] = envelope[:, None] * np.exp(-2j * np.pi * frequencies[:, None] * places[None, :])
    return waves


def _disc(height: int, width: int) -> Floats:
    """1 where the middle of a sample lies in the disc of the shorter side."""
    down, across = np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2
    inside = down[:, None] ** 2 + across[None, :] ** 2 <= (min(height, width) / 2) ** 2
    return inside.astype(np.float64)


def _transmission(given: Any) -> Floats:
    if isinstance(given, str):
        return layout(given).numpy()
    try:
        found = np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given)
        cell = found.astype(np.float64, casting="unsafe" if found.dtype.kind == "O" else "same_kind")
    except (TypeError, ValueError):
        raise TypeError(f"layout: wanted a name or a 2-D array of numbers, got {type(given).__name__}") from None
    if cell.ndim != 2 or cell.size == 0:
        raise ValueError(f"layout: wanted a 2-D array (h, w), got shape {cell.shape}")
    if not (np.isfinite(cell).all() and cell.min() >= 0 and cell.max() <= 1):
        raise ValueError(f"layout: wanted transmissions from 0 to 1, got {cell.min():g} to {cell.max():g}")
    if not cell.any():
        raise ValueError("layout: wanted an open part, got 0 everywhere")
    return cell


def _groups(wavelengths: Any) -> list[list[float]]:
    """The wavelengths of each channel."""
    channels = _listed(wavelengths)
    if not channels:
        raise ValueError(f"wavelengths: wanted one entry for each channel, got {wavelengths!r}")
    groups = [[entry] if (several := _listed(entry)) is None else several for entry in channels]
    for group in groups:
        if not group:
            raise ValueError("wavelengths: wanted at least one for each channel, got an empty entry")
        for wave in group:
            _require_length(wave, "wavelengths")
    return [[float(wave) for wave in group] for group in groups]


def _listed(value: Any) -> list[Any] | None:
    return list(value) if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str) else None


def _require_length(value: Any, name: str) -> None:
    if not check.is_number(value) or value <= 0:
        raise ValueError(f"{name}: wanted a length in metres > 0, got {value!r}")
