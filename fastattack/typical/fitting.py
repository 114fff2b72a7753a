"""A sampler fitted to a few attacked samples (this project's formulation), kept as a small JSON file."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import write_atomic
from ..ops import check
from ..ops.spectrum import Spectrum
from ..sampler import TypicalSetSampler
from .statistics import band_power, relative_to_white

FORMAT, VERSION = "fastattack.SpectrumFit", 1
LEAST_SAMPLES = 4
_QUANTILES = (0.05, 0.95)


@dataclass(frozen=True, kw_only=True)
class SpectrumFit:
    """What a sampler needs to draw noise like that of a few attacked samples; made by `fit`.

    Attributes:
        sigma: standard deviation of the noise model, on the scale of the images.
        typicality: (low, high) gap of the attacked noise about its own mean, nats per pixel.
        mean: (low, high) mean of the attacked noise.
        power: what the attacked noise has above white in equal radial bands, relative to white of that energy.
        share: part of the attacked noise's energy that has this spectrum; the rest is white.
        samples, elements: how many samples, and how many pixel values in all, it was fitted to.

    Raises:
        TypeError, ValueError: a field of another type, not finite, out of its range or upside down; it is named.
    """

    sigma: float
    typicality: tuple[float, float]
    mean: tuple[float, float]
    power: tuple[float, ...]
    share: float
    samples: int
    elements: int

    def __post_init__(self) -> None:
        _require(self, "sigma", 1, above=0.0)
        _require(self, "share", 1, least=0.0, most=1.0)
        for name in ("typicality", "mean"):
            low, high = _require(self, name, 2)
            if low > high:
                raise ValueError(f"{name}: wanted low <= high, got ({low:g}, {high:g})")
        _require(self, "typicality", 2, above=-0.5)
        if sum(_require(self, "power", None, least=0.0)) <= 0:
            raise ValueError("power: wanted at least one band above zero")
        for name in ("samples", "elements"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ValueError(f"{name}: wanted a whole number >= 1, got {getattr(self, name)!r}")

    @property
    def spectrum(self) -> Spectrum:
        """For ``fa.ops.typical_noise`` and ``fa.TypicalSetSampler``."""
        return Spectrum(power=self.power, share=self.share)

    def sampler(self, *, plain_share: float = 0.5, seed: int = 0, backend: str = "auto") -> TypicalSetSampler:
        """A sampler of training inputs with the fitted gap, mean shift and spectrum."""
        return TypicalSetSampler(
            sigma=self.sigma, typicality=self.typicality, mean=self.mean, spectrum=self.spectrum,
            plain_share=plain_share, seed=seed, backend=backend,
        )  # fmt: skip

    def save(self, path: str | Path) -> None:
        """Write it as JSON, whole or not at all."""
        content = {"format": FORMAT, "version": VERSION, **asdict(self)}
        write_atomic(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> SpectrumFit:
        """Read what `save` wrote.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is no such file; the message names the file and the field.
        """
        try:
            content = json.loads(Path(path).read_bytes())
            if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
                raise ValueError(f"format: wanted {FORMAT!r}")
            if (version := content.pop("version", None)) != VERSION:
                raise ValueError(f"version: wanted {VERSION}, got {version!r}")
            if different := sorted(content.keys() ^ cls.__dataclass_fields__.keys()):
                raise ValueError(f"{different[0]}: {'not a field' if different[0] in content else 'missing'}")
            fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in content.items()}
            return cls(**fields)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: not a saved SpectrumFit: {error}") from error


def _require(
    owner: SpectrumFit,
    name: str,
    count: int | None,
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
) -> tuple[float, ...]:
    """The field as finite floats in their range: one number for count 1, else a tuple of so many (None: any)."""
    value = getattr(owner, name)
    numbers = (value,) if count == 1 else value
    if not isinstance(numbers, tuple) or not numbers or (count is not None and len(numbers) != count):
        raise TypeError(f"{name}: wanted a tuple of {count or 'some'} numbers, got {value!r}")
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise TypeError(f"{name}: wanted a number, got {number!r}")
        if not (math.isfinite(number) and least <= number <= most and number > above):
            limits = f"[{least:g}, {most:g}]" if above == -math.inf else f"({above:g}, {most:g}]"
            raise ValueError(f"{name}: wanted a finite number in {limits}, got {number}")
    return numbers


def fit(
    perturbations: Tensor | Sequence[Tensor],
    noise: Tensor | Sequence[Tensor],
    *,
    sigma: float | None = None,
    bands: int = 16,
) -> SpectrumFit:
    """A sampler's numbers from a few attacked samples of any model (this project's formulation).

    With perturbation p and noise n of each sample, the attacked noise n + p gives its gap about its own mean and its
    mean, each as the interval between the 5 % and the 95 % quantile of the samples. The radial spectrum of n + p,
    averaged over the samples, is split into white noise (its weakest band) and what lies above it: power and share.
    The sampler so draws noise with the radial spectrum of the attacked noise, correlation of p with n included. The
    weakest of noisy bands is a little too weak, so the share comes out too large, by 0.05 to 0.15 for four samples of
    48 x 48 pixels and less for more.

    Args:
        perturbations: attacked input minus noisy input, (B, C, H, W), or a sequence of (C, H, W) of any sizes.
        noise: noisy input minus clean image, likewise.
        sigma: of the noise model; None is the root mean square of ``noise``.
        bands: radial bands, each of which must hold a frequency of the smallest image.

    Raises:
        TypeError, ValueError: fewer than 4 samples, shapes that differ, NaN, or no perturbation at all.
    """
    pairs = _pairs(perturbations, noise)
    if sigma is None:
        elements = sum(n.numel() for _, n in pairs)
        sigma = math.sqrt(sum(n.square().sum().item() for _, n in pairs) / elements)
    sigma = float(check.positive(sigma, "sigma", torch.empty(1)))
    if not any(p.ne(0).any() for p, _ in pairs):
        raise ValueError("perturbations: wanted at least one that is not zero everywhere")
    attacked = [n + p for p, n in pairs]
    power, count = (
        sum(t) for t in zip(*(band_power(a, bands, "noise + perturbations") for a in attacked), strict=True)
    )
    relative = relative_to_white(power, count, "noise + perturbations")
    white = relative.min()
    above = relative - white
    share = 1 - float(white)
    gaps = [0.5 * (_energy(a) / (a.numel() * sigma**2) - 1) for a in attacked]
    return SpectrumFit(
        sigma=sigma,
        typicality=_interval(gaps),
        mean=_interval([a.mean().item() for a in attacked]),
        power=tuple((above / share if share > 0 else torch.ones_like(above)).tolist()),
        share=share,
        samples=len(pairs),
        elements=sum(a.numel() for a in attacked),
    )


def _pairs(perturbations: Any, noise: Any) -> list[tuple[Tensor, Tensor]]:
    """Perturbation and noise of each sample, checked, float64 on the CPU."""
    perturbations, noise = (t if isinstance(t, Tensor) else list(t) for t in (perturbations, noise))
    if len(perturbations) != len(noise):
        raise ValueError(f"noise: wanted {len(perturbations)} samples as perturbations has, got {len(noise)}")
    if len(perturbations) < LEAST_SAMPLES:
        raise ValueError(f"perturbations: wanted at least {LEAST_SAMPLES} samples, got {len(perturbations)}")
    found = []
    for index, (p, n) in enumerate(zip(perturbations, noise, strict=True)):
        for name, t in (("perturbations", p), ("noise", n)):
            check.require_images(check.as_tensor(t, f"{name}[{index}]"), f"{name}[{index}]")
            if t.dim() != 3 or t.shape != p.shape:
                wanted = "(C, H, W)" if name == "perturbations" else f"{tuple(p.shape)} as perturbations has"
                raise ValueError(f"{name}[{index}]: wanted {wanted}, got shape {tuple(t.shape)}")
            if not t.isfinite().all():
                raise ValueError(f"{name}[{index}]: wanted finite numbers, got NaN or infinity")
        found.append((p.detach().cpu().double(), n.detach().cpu().double()))
    return found


def _energy(x: Tensor) -> float:
    return (x - x.mean()).square().sum().item()


def _interval(values: list[float]) -> tuple[float, float]:
    low, high = (
        torch.tensor(values, dtype=torch.float64).quantile(torch.tensor(_QUANTILES, dtype=torch.float64)).tolist()
    )
    return low, high
