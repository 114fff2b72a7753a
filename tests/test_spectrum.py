"""Coloured noise: the powers that were asked for, still on the shell; what a spectrum may be, and what it may not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fastattack import ops
from fastattack.ops import Spectrum
from fastattack.ops.spectrum import PRESETS, band_of, gain_of, multiplicity, radial_frequency
from tests.cases import DTYPES

BATCH, HEIGHT, WIDTH = 64, 32, 45
BANDS = (100.0, 10.0, 3.0, 0.0, 1.0)
EDGE = math.sqrt(0.5)


def radius(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Cycles per pixel over the full plane of frequencies."""
    return np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])


def wanted_bands(power=BANDS) -> np.ndarray:
    """Power of every frequency of the full plane, of mean 1 without frequency 0, which has none here."""
    r = radius()
    p = np.asarray(power)[np.minimum((r / EDGE * len(power)).astype(int), len(power) - 1)]
    p[0, 0] = 0
    return p * (r.size - 1) / p.sum()


def power_of(noise: torch.Tensor) -> np.ndarray:
    """Mean power of every frequency over batch and channels; 1 for white noise of variance 1."""
    n = noise.double().numpy().reshape(-1, *noise.shape[-2:])
    return np.square(np.abs(np.fft.fft2(n))).mean(0) / n[0].size


def coloured(spectrum, shape=(BATCH, 3, HEIGHT, WIDTH), dtype=torch.float32, **options) -> torch.Tensor:
    options = {"sigma": 1.0, "seed": 5} | options
    return ops.typical_noise(torch.empty(shape, dtype=dtype), spectrum=spectrum, **options)


def check_bands(noise: torch.Tensor, want: np.ndarray, bands: int = 5) -> None:
    """Each radial band has the energy that ``want`` gives it, to five standard deviations."""
    got, samples = power_of(noise), noise.numel() / want.size
    band = np.minimum((radius() / EDGE * bands).astype(int), bands - 1)
    for b in range(bands):
        inside = (band == b) & (radius() > 0)
        error = math.sqrt(2 * np.square(want[inside]).sum() / samples)  # a frequency and its mirror are one number
        assert abs(got[inside].sum() - want[inside].sum()) <= 5 * error + 1e-6 * want.sum(), f"band {b}"


@pytest.mark.parametrize("typicality", [None, 0.0])
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_band_powers_follow_the_spectrum(share, typicality):
    noise = coloured(Spectrum(BANDS, share), typicality=typicality)
    check_bands(noise, (1 - share) + share * wanted_bands())
    if share == 1.0:
        assert power_of(noise)[wanted_bands() == 0][1:].max() < 1e-9, "a band without power stays empty"


def test_the_field_has_no_direction_of_its_own():
    """Rows and columns, and the two diagonals, have the same powers."""
    p, low = power_of(coloured(BANDS, shape=(400, 1, 32, 32))), radius(32, 32) < 0.2
    for other in (p.T, np.roll(p[::-1], 1, 0)):
        assert np.abs((p - other)[low] / (p + other)[low].clip(1e-12)).max() < 5 / math.sqrt(2 * 400)


def test_ways_to_give_a_spectrum():
    band = band_of(HEIGHT, WIDTH, len(BANDS))
    table = torch.tensor(BANDS)[band]
    want = coloured(BANDS)
    for power in (list(BANDS), torch.tensor(BANDS), table, 7 * table.double(), Spectrum(BANDS, 1.0), Spectrum(table)):
        assert torch.allclose(coloured(power), want, atol=1e-5)
    assert torch.allclose(coloured(lambda r: torch.tensor(BANDS)[(r / EDGE * 5).long().clamp(max=4)]), want, atol=1e-5)
    preset = PRESETS["adversarial"]
    by_hand = coloured(Spectrum(preset.power, preset.share))
    assert torch.equal(coloured("adversarial"), by_hand)
    assert torch.equal(coloured(Spectrum("adversarial")), by_hand)
    assert not torch.equal(coloured(Spectrum("adversarial", 1.0)), by_hand)
    smooth = coloured(lambda r: 1 / (r + 0.02) ** 2)
    p = 1 / (radius() + 0.02) ** 2
    p[0, 0] = 0
    check_bands(smooth, p * (p.size - 1) / p.sum())


@pytest.mark.parametrize("typicality", [None, 0.2])
@pytest.mark.parametrize("shape", [(3, 1, 9, 8), (2, 3, 33, 17), (3, 8, 8)])
def test_share_0_and_a_flat_spectrum_are_white(shape, typicality):
    options = {"sigma": 0.1, "typicality": typicality, "mean": 0.01, "seed": 3}
    for dtype, bound in ((torch.float32, 1e-6), (torch.float64, 1e-13)):
        white = ops.typical_noise(torch.empty(shape, dtype=dtype), **options)
        for spectrum in (Spectrum(BANDS, 0.0), (1.0, 1.0, 1.0), lambda r: torch.full_like(r, 9.0)):
            assert (coloured(spectrum, shape, dtype, **options) - white).abs().max() < bound


def test_a_share_for_each_sample():
    share = torch.linspace(0, 1, BATCH)
    noise = coloured(Spectrum(BANDS, share))
    for k in (0, 7, BATCH - 1):
        one = coloured(Spectrum(BANDS, float(share[k])), (1, 3, HEIGHT, WIDTH), sample_ids=torch.tensor([k]))
        assert torch.allclose(noise[k], one[0], atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [-0.4, 0.0, 0.013, 2.0])
def test_on_the_shell(gap, dtype):
    for shape in ((4, 2, 4), (4, 1, 5, 7), (4, 3, 64, 64)):
        for mean in (0.0, 0.03):
            noise = coloured("adversarial", shape, dtype, sigma=0.1, typicality=gap, mean=mean)
            n = noise.double().flatten(1).numpy()
            length = np.linalg.norm(n - mean, axis=1) / (0.1 * math.sqrt(n.shape[1] * (1 + 2 * gap)))
            assert np.abs(length - 1).max() <= 1e-5
            assert np.abs(n.mean(1) - mean).max() <= 1e-6


def test_levels_of_each_sample():
    """Intervals and NaN mean here what they mean for white noise: seen through a flat spectrum."""
    gaps = torch.tensor([0.1, float("nan"), -0.2])
    for options in (
        {"sigma": (0.1, 0.2), "typicality": (-0.2, 0.3), "mean": (-0.01, 0.02)},
        {"sigma": torch.tensor([0.1, 0.2, 0.3]), "typicality": gaps, "mean": torch.tensor([0.0, 0.02, -0.02])},
    ):
        options |= {"seed": 3, "sample_ids": torch.tensor([4, 2**40, 6])}
        white = ops.typical_noise((3, 1, 12, 13), **options)
        assert (coloured([1.0], (3, 1, 12, 13), **options) - white).abs().max() < 1e-6


def test_plain_coloured_noise_keeps_its_variance():
    noise = coloured(BANDS, typicality=None, sigma=0.5, mean=0.2).double()
    assert abs(noise.mean().item() - 0.2) < 5 * 0.5 / math.sqrt(noise.numel())
    energy = np.square(wanted_bands()).sum() * 2 / (noise.numel() / wanted_bands().size)
    assert abs(noise.var().item() / 0.25 - 1) < 5 * math.sqrt(energy) / wanted_bands().size


@pytest.mark.parametrize("dtype", DTYPES)
def test_clean_and_out(subject, dtype):
    clean = torch.rand(3, 1, 8, 9).to(subject.device, dtype).to(memory_format=torch.channels_last)
    options = {"sigma": 0.1, "spectrum": BANDS, "seed": 2, "backend": subject.backend}
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    noise = ops.typical_noise(clean.to(wide), **options)
    out = torch.full_like(clean, float("nan"))
    assert ops.typical_noise(clean, out=out, clean=clean, **options) is out
    want = (clean.to(wide) + noise).to(dtype)
    assert torch.allclose(out.double(), want.double(), rtol=0, atol=2 * torch.finfo(dtype).eps)
    reference = ops.typical_noise(clean, clean=clean, **options | {"backend": "reference"})
    assert torch.allclose(out.double(), reference.double(), rtol=0, atol=2 * torch.finfo(dtype).eps)


def test_the_gain_of_every_frequency():
    like = torch.empty(2, 3, HEIGHT, WIDTH)
    assert np.allclose(radial_frequency(HEIGHT, WIDTH).numpy(), radius()[:, : WIDTH // 2 + 1])
    for width in (WIDTH, WIDTH + 1):
        assert multiplicity(HEIGHT, width).sum() == width, "every frequency of a row once"
    gain = gain_of(Spectrum(BANDS, 0.7), like)
    assert gain.shape == (HEIGHT, WIDTH // 2 + 1)
    assert gain[0, 0] == 1
    energy = (gain.square() * multiplicity(HEIGHT, WIDTH)).sum()
    assert torch.isclose(energy, torch.tensor(1.0 * HEIGHT * WIDTH, dtype=torch.float64), rtol=1e-12)
    assert gain_of(Spectrum(BANDS, torch.tensor([0.1, 0.2])), like).shape == (2, 1, HEIGHT, WIDTH // 2 + 1)


BAD = [
    ("pink", ValueError, ["'adversarial'", "'pink'"]),
    (3.0, ValueError, ["band powers", "()"]),
    (object(), TypeError, ["band powers", "object"]),
    ((), ValueError, ["band powers", "(0,)"]),
    (torch.ones(8, 9), ValueError, ["(8, 5)", "8x8", "(8, 9)"]),
    (torch.ones(2, 8, 5), ValueError, ["(8, 5)", "(2, 8, 5)"]),
    ((1.0, -1.0), ValueError, [">= 0"]),
    ((1.0, float("nan")), ValueError, ["finite"]),
    ((1.0, math.inf), ValueError, ["finite"]),
    ((0.0, 0.0), ValueError, ["some power", "8x8", "none"]),
    (lambda r: r.sum(), ValueError, ["function", "(8, 5)", "()"]),
    (lambda r: 1.0, ValueError, ["function", "float"]),
]


@pytest.mark.parametrize(("power", "error", "words"), BAD)
def test_bad_spectra_are_named(power, error, words):
    with pytest.raises(error) as caught:
        coloured(power, (2, 1, 8, 8))
    assert str(caught.value).startswith("spectrum")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), torch.tensor([0.5, 2.0])])
def test_bad_shares_are_named(share):
    with pytest.raises(ValueError, match="spectrum: wanted a share"):
        Spectrum(BANDS, share)


def test_more_bad_input():
    with pytest.raises(ValueError, match=r"spectrum: wanted a share or \(2,\)"):
        coloured(Spectrum(BANDS, torch.ones(3)), (2, 1, 8, 8))
    with pytest.raises(ValueError, match=r"spectrum: wanted images \(B, ..., H, W\)"):
        coloured(BANDS, (2, 8))
