"""Radial power spectra of coloured noise: bands, curves and maps become the gain of every frequency."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Power = Callable[[Tensor], Tensor] | Tensor | Sequence[float] | str

HIGHEST = math.sqrt(0.5)
"""The radial frequency of the corner, in cycles per pixel."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Band powers (relative to white) and share of a perturbation that was measured."""

    power: tuple[float, ...]
    share: float


PRESETS = {
    # fa.typical.fit to denoising-PGD (free, eps 5/255, 10 steps) on DnCNN-17, sigma 25, central crops of Set12.
    "adversarial": Preset(
        power=(19.7, 6.9, 3.6, 2.75, 1.7, 1.25, 0.9, 0.85, 0.6, 0.5, 0.25, 0.2, 0.15, 0.15, 0.15, 0.0), share=0.14
    ),
}


@dataclass(frozen=True)
class Spectrum:
    """A coloured Gaussian field at a share of the energy, the rest white.

    Attributes:
        power: relative power over the plane of frequencies; only ratios count. One of
            a function of the radial frequency (H, W//2 + 1) in cycles per pixel (0 to sqrt(1/2)), float64, that gives
            the power there;
            the powers of equal-width radial bands from 0 to sqrt(1/2), a sequence or 1-D tensor;
            a map (H, W//2 + 1) over the frequencies of torch.fft.rfft2 for one image size;
            "adversarial": what denoising-PGD does to DnCNN.
        share: part of the energy that is coloured, 0 to 1: a number or (B,). None: 1, or the preset's own.
    """

    power: Power
    share: float | Tensor | None = None

    def __post_init__(self) -> None:
        if isinstance(self.power, str) and self.power not in PRESETS:
            raise ValueError(
                f"spectrum: wanted band powers, a map, a function or one of {', '.join(map(repr, PRESETS))}, "
                f"got {self.power!r}"
            )
        share = torch.as_tensor(1.0 if self.share is None else self.share)
        if not bool(((share >= 0) & (share <= 1)).all()):
            raise ValueError(f"spectrum: wanted a share of the energy between 0 and 1, got {self.share!r}")

    @property
    def own_share(self) -> float | Tensor:
        """The share, the preset's where none was given."""
        if self.share is not None:
            return self.share
        return PRESETS[self.power].share if isinstance(self.power, str) else 1.0


def radial_frequency(height: int, width: int) -> Tensor:
    """Cycles per pixel of every frequency of rfft2, (H, W//2 + 1) float64."""
    rows = torch.fft.fftfreq(height, dtype=torch.float64)
    columns = torch.fft.rfftfreq(width, dtype=torch.float64)
    return torch.hypot(rows[:, None], columns[None, :])


def multiplicity(height: int, width: int) -> Tensor:
    """How often every frequency of rfft2 stands in the full plane, (W//2 + 1,): 1 or 2."""
    twice = torch.full((width // 2 + 1,), 2.0, dtype=torch.float64)
    twice[0] = 1.0
    if width % 2 == 0:
        twice[-1] = 1.0
    return twice


def band_of(height: int, width: int, bands: int) -> Tensor:
    """The radial band of every frequency of rfft2, (H, W//2 + 1) int64 in 0 .. bands-1; the last holds the corner."""
    position = radial_frequency(height, width) * (bands / HIGHEST)
    return position.long().clamp(max=bands - 1)


def _power_map(power: Power, height: int, width: int) -> Tensor:
    """(H, W//2 + 1) float64 on the CPU, where it is checked without waiting for another device."""
    size = (height, width // 2 + 1)
    if isinstance(power, str):
        power = PRESETS[power].power
    if callable(power):
        found: object = power(radial_frequency(height, width))
        if not isinstance(found, Tensor) or found.shape != size:
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"spectrum: wanted a function that gives the power at {size} frequencies, got {got}")
        return found.to(device="cpu", dtype=torch.float64)
    try:
        values = torch.as_tensor(power, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"spectrum: wanted band powers, a map, a function or a preset, got {power!r}") from None
    if values.dim() == 1 and len(values) >= 1:
        return values[band_of(height, width, len(values))]
    if values.dim() == 2 and values.shape == size:
        return values
    raise ValueError(
        f"spectrum: wanted band powers (n,) or a map {size} for images {height}x{width}, "
        f"got shape {tuple(values.shape)}"
    )


def gain_of(spectrum: Spectrum | Power, like: Tensor, share: Tensor | None = None) -> Tensor:
    """The gain of every frequency for images (B, ..., H, W): (H, W//2 + 1), or (B, 1.., H, W//2 + 1).

    The mean square over the plane is 1, so that white noise keeps its variance; the mean of a sample (frequency 0) has
    gain 1. ``share``: (B,) instead of the spectrum's own, on the device of ``like``; not looked at, so nothing waits.
    """
    if not isinstance(spectrum, Spectrum):
        spectrum = Spectrum(spectrum)
    if like.dim() < 3:
        raise ValueError(f"spectrum: wanted images (B, ..., H, W), got shape {tuple(like.shape)}")
    height, width = like.shape[-2:]
    power = _power_map(spectrum.power, height, width).clone()
    power[0, 0] = 0.0
    if not bool(((power >= 0) & power.isfinite()).all()):
        raise ValueError("spectrum: wanted finite powers >= 0 at every frequency but 0")
    if height * width > 1:
        total = (power * multiplicity(height, width)).sum()
        if not bool(total > 0):
            raise ValueError(f"spectrum: wanted some power at the frequencies of images {height}x{width}, got none")
        power *= (height * width - 1) / total
    power[0, 0] = 1.0
    part = torch.as_tensor(spectrum.own_share if share is None else share, dtype=torch.float64, device=like.device)
    if part.dim():
        if part.shape != like.shape[:1]:
            raise ValueError(f"spectrum: wanted a share or ({like.shape[0]},) shares, got shape {tuple(part.shape)}")
        part = part.reshape(-1, *[1] * (like.dim() - 1))
    return ((1 - part) + part * power.to(like.device)).sqrt()


def colour(white: Tensor, gain: Tensor) -> Tensor:
    """White noise (B, ..., H, W) with every frequency multiplied by its gain."""
    frequencies = torch.fft.rfft2(white).mul_(gain.to(white.dtype))
    coloured: Tensor = torch.fft.irfft2(frequencies, s=white.shape[-2:])
    return coloured
