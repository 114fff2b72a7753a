"""fa.typical: gaps, spectra and fits against NumPy in float64 and against what the samples were made from."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fastattack import typical
from fastattack.typical import SpectrumFit

SIGMA = 25 / 255


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def filtered(shape: tuple[int, ...], gain, seed: int = 0) -> Tensor:
    """White noise times ``gain(radial frequency)``, by NumPy's full FFT."""
    f = np.hypot(np.fft.fftfreq(shape[-2])[:, None], np.fft.fftfreq(shape[-1])[None, :])
    white = normals(*shape, seed=seed).numpy()
    return torch.from_numpy(np.fft.ifft2(np.fft.fft2(white) * gain(f)).real)


def test_gap_and_membership():
    noise = SIGMA * normals(5, 3, 20, 21) * torch.tensor([0.9, 1.0, 1.1, 1.0, 1.0]).view(-1, 1, 1, 1) + 0.01
    noise[4, 0, 0, 0] = float("nan")
    gap = typical.typicality_gap(noise, sigma=SIGMA, mean=0.01)
    want = 0.5 * (((noise.numpy() - 0.01) ** 2).reshape(5, -1).mean(1) / SIGMA**2 - 1)
    np.testing.assert_allclose(gap.numpy(), want, rtol=1e-9)
    eps = float(np.abs(want[1]))
    for scale, inside in ((1 + 1e-6, True), (1 - 1e-6, False)):
        assert bool(typical.in_typical_set(noise, sigma=SIGMA, eps=scale * eps, mean=0.01)[1]) is inside
    found = typical.in_typical_set(noise, sigma=SIGMA, eps=torch.tensor([0.05, 0.05, 0.05, 0.05, 0.05]), mean=0.01)
    assert found.tolist() == [False, True, False, True, False]


def test_expected_spread_is_what_the_model_gives():
    noise = normals(20_000, 50)
    gaps = typical.typicality_gap(noise, sigma=1.0)
    assert typical.expected_spread(noise) == typical.expected_spread(50) == 0.1
    assert abs(gaps.std().item() / 0.1 - 1) < 0.03  # four times its own spread, 1 / sqrt(2 n), and the kurtosis
    assert abs(gaps.mean().item()) < 4 * 0.1 / math.sqrt(20_000)


def numpy_spectrum(x: np.ndarray, bands: int) -> np.ndarray:
    """By the full plane, frequency by frequency."""
    power = (np.abs(np.fft.fft2(x)) ** 2).reshape(-1, *x.shape[-2:]).mean(0)
    f = np.hypot(np.fft.fftfreq(x.shape[-2])[:, None], np.fft.fftfreq(x.shape[-1])[None, :])
    band = np.minimum((f * (bands / math.sqrt(0.5))).astype(int), bands - 1)
    keep = np.ones_like(f, dtype=bool)
    keep[0, 0] = False
    means = [power[keep & (band == b)].mean() for b in range(bands)]
    return np.array(means) / power[keep].mean()


@pytest.mark.parametrize("size", [(24, 20), (23, 21), (16, 33)])
def test_radial_spectrum_counts_every_frequency_once(size):
    x = normals(2, 3, *size) + 7.0
    found = typical.radial_spectrum(x, bands=6)
    assert found.dtype is torch.float64
    np.testing.assert_allclose(found.numpy(), numpy_spectrum(x.numpy(), 6), rtol=1e-9)
    np.testing.assert_allclose(typical.radial_spectrum(3 * x - 5, bands=6), found, rtol=1e-9)


def test_white_is_one_everywhere():
    found = typical.radial_spectrum(normals(64, 1, 64, 64).float())
    assert found.shape == (16,)
    count = 64 * 0.5 * np.pi * (64 * math.sqrt(0.5) / 16) ** 2  # independent frequencies of the smallest band, about
    assert (found - 1).abs().max().item() < 5 / math.sqrt(count)


def test_a_filter_shows_its_square():
    edge = math.sqrt(0.5) / 4
    found = typical.radial_spectrum(filtered((16, 1, 64, 64), lambda f: np.where(f < edge, 3.0, 1.0)), bands=8)
    ratio = found[:2].mean() / found[2:].mean()
    assert ratio.item() == pytest.approx(9.0, rel=0.05)
    line = torch.cos(2 * math.pi * 0.25 * torch.arange(32, dtype=torch.float64)).expand(32, 32)
    single = typical.radial_spectrum(line, bands=4)
    assert int(single.argmax()) == 1  # 0.25 lies between 0.177 and 0.354 cycles per pixel
    assert single[[0, 2, 3]].abs().max().item() < 1e-20


@pytest.fixture(scope="module")
def attacked() -> tuple[Tensor, Tensor]:
    """(perturbations, noise): noise n of std 0.1, and low-pass perturbations of std 0.02 to 0.03 with a mean."""
    noise = 0.1 * normals(40, 1, 48, 48, seed=1)
    shape = filtered((40, 1, 48, 48), lambda f: np.where(f < math.sqrt(0.5) / 4, 1.0, 0.1), seed=2)
    shape = (shape - shape.mean((1, 2, 3), keepdim=True)) / shape.std((1, 2, 3), keepdim=True)
    size = torch.linspace(0.02, 0.03, 40, dtype=torch.float64).view(-1, 1, 1, 1)
    mean = torch.linspace(0.001, 0.003, 40, dtype=torch.float64).view(-1, 1, 1, 1)
    return size * shape + mean, noise - noise.mean((1, 2, 3), keepdim=True)


def test_fit_finds_what_was_put_in(attacked):
    perturbations, noise = attacked
    found = typical.fit(perturbations, noise, sigma=0.1, bands=8)
    assert (found.samples, found.elements) == (40, 40 * 48 * 48)
    both = (perturbations + noise).flatten(1).numpy()
    gaps = 0.5 * (both.var(1) / 0.1**2 - 1)
    np.testing.assert_allclose(found.typicality, np.quantile(gaps, [0.05, 0.95]), rtol=1e-9)
    np.testing.assert_allclose(found.mean, (0.0011, 0.0029), rtol=1e-6)
    spectrum = 1 - found.share + found.share * np.array(found.power)
    np.testing.assert_allclose(spectrum, numpy_spectrum((perturbations + noise).numpy(), 8), rtol=0.02)
    assert min(found.power) == 0  # the weakest band is white noise alone
    energy = 0.02**2 + 0.02 * 0.01 + 0.01**2 / 3  # of the perturbations; all but a little lies in the two lowest bands
    assert found.share == pytest.approx(energy / (0.1**2 + energy), rel=0.15)
    assert min(found.power[:2]) > 5 * max(found.power[2:])
    assert typical.fit(perturbations, noise).sigma == pytest.approx(float(noise.square().mean().sqrt()))


def test_the_fitted_sampler_draws_such_noise(attacked):
    found = typical.fit(*attacked, sigma=0.1, bands=8)
    clean = torch.zeros(200, 1, 48, 48)
    noise = found.sampler(plain_share=0.0, seed=3)(clean).double()
    gaps = 0.5 * (noise.flatten(1).var(1, correction=0) / 0.1**2 - 1)
    assert gaps.min().item() > found.typicality[0] - 1e-4
    assert gaps.max().item() < found.typicality[1] + 1e-4
    means = noise.flatten(1).mean(1)
    assert means.min().item() > found.mean[0] - 1e-6
    assert means.max().item() < found.mean[1] + 1e-6
    drawn = typical.radial_spectrum(noise, bands=8).numpy()
    want = 1 - found.share + found.share * np.array(found.power)
    np.testing.assert_allclose(drawn, want, rtol=0.05)
    assert found.sampler().plain_share == 0.5


def test_fit_takes_images_of_many_sizes(attacked):
    perturbations, noise = attacked
    whole = typical.fit(perturbations[:6], noise[:6], sigma=0.1, bands=6)
    parts = typical.fit(list(perturbations[:6].float()), list(noise[:6].float()), sigma=0.1, bands=6)
    np.testing.assert_allclose(parts.power, whole.power, rtol=1e-4)
    mixed = typical.fit(
        [p[:, : 48 - 4 * k] for k, p in enumerate(perturbations[:6])],
        [n[:, : 48 - 4 * k] for k, n in enumerate(noise[:6])],
        bands=6,
    )
    assert mixed.elements == 48 * sum(48 - 4 * k for k in range(6))


def example(**changes) -> SpectrumFit:
    fields = {
        "sigma": 0.1, "typicality": (0.01, 0.05), "mean": (-0.001, 0.002), "power": (3.0, 1.0, 0.25), "share": 0.3,
        "samples": 7, "elements": 700,
    }  # fmt: skip
    return SpectrumFit(**{**fields, **changes})


def test_save_and_load(tmp_path):
    fitted = example(sigma=0.1 + 1e-17, mean=(-1 / 3, 2 / 3))
    path = tmp_path / "deep" / "fit.json"
    fitted.save(path)
    assert SpectrumFit.load(path) == fitted
    assert json.loads(path.read_text())["format"] == "fastattack.SpectrumFit"
    assert [p.name for p in path.parent.iterdir()] == ["fit.json"]
    assert fitted.spectrum.power == fitted.power
    assert fitted.spectrum.share == fitted.share


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", "somebody.else"),
        ("version", 2),
        ("sigma", 0.0),
        ("sigma", "0.1"),
        ("sigma", float("nan")),
        ("sigma", True),
        ("typicality", [0.05, 0.01]),
        ("typicality", [0.05]),
        ("typicality", 0.05),
        ("typicality", [-0.5, 0.0]),
        ("mean", [0.0, float("inf")]),
        ("mean", [None, 0.0]),
        ("power", []),
        ("power", [1.0, -1.0]),
        ("power", [0.0, 0.0]),
        ("share", 1.5),
        ("share", -0.1),
        ("samples", 2.5),
        ("elements", 0),
        ("colour", "pink"),
    ],
)
def test_files_with_a_bad_field_name_it(tmp_path, field, value):
    path = tmp_path / "fit.json"
    example().save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(ValueError, match=rf"fit\.json: not a saved SpectrumFit: {field}: "):
        SpectrumFit.load(path)


@pytest.mark.parametrize("field", ["format", "version", "sigma", "typicality", "mean", "power", "share", "samples"])
def test_files_that_lack_a_field_name_it(tmp_path, field):
    path = tmp_path / "fit.json"
    example().save(path)
    content = json.loads(path.read_text())
    del content[field]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"fit\.json: not a saved SpectrumFit: {field}: "):
        SpectrumFit.load(path)


@pytest.mark.parametrize("text", [b"", b"{", b"[1, 2]", b"\xff\xfe\x00", b"null"])
def test_what_is_no_fit_at_all(tmp_path, text):
    path: Path = tmp_path / "fit.json"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=r"fit\.json: not a saved SpectrumFit"):
        SpectrumFit.load(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        SpectrumFit.load(tmp_path / "nowhere.json")


def test_fits_that_cannot_be(attacked):
    p, n = (t[:5].clone() for t in attacked)
    holed = n.clone()
    holed[2, 0, 1, 1] = float("nan")
    cases = [
        ((p[:3], n[:3]), {}, "perturbations: wanted at least 4 samples, got 3"),
        ((p, n[:4]), {}, "noise: wanted 5 samples"),
        ((p[:, 0], n[:, 0]), {}, r"perturbations\[0\]: wanted \(C, H, W\)"),
        ((p, n[..., 1:]), {}, r"noise\[0\]: wanted \(1, 48, 48\)"),
        ((p, holed), {}, r"noise\[2\]: wanted finite numbers"),
        ((holed, n), {}, r"perturbations\[2\]: wanted finite numbers"),
        ((0 * p, n), {}, "perturbations: wanted at least one that is not zero"),
        ((p, -p), {}, r"noise \+ perturbations: wanted finite images that are not constant"),
        ((p, n), {"sigma": 0.0}, "sigma"),
        ((p, n), {"bands": 0}, "bands: wanted a whole number"),
        ((p, n), {"bands": 200}, "bands: wanted fewer than 200"),
    ]
    for arguments, options, words in cases:
        with pytest.raises(ValueError, match=words):
            typical.fit(*arguments, **options)
    with pytest.raises(TypeError, match=r"perturbations\[0\]"):
        typical.fit([1, 2, 3, 4], [1, 2, 3, 4])


def test_statistics_that_cannot_be():
    x = normals(2, 1, 8, 8)
    for call, error, words in (
        (lambda: typical.typicality_gap(x, sigma=0.0), ValueError, "sigma"),
        (lambda: typical.in_typical_set(x, sigma=1.0, eps=-1.0), ValueError, "eps"),
        (lambda: typical.in_typical_set(x, sigma=1.0, eps=torch.ones(3)), ValueError, "eps"),
        (lambda: typical.expected_spread(0), ValueError, "size"),
        (lambda: typical.expected_spread(2.5), TypeError, "size"),
        (lambda: typical.expected_spread(x[:0]), ValueError, "size"),
        (lambda: typical.radial_spectrum(x[0, 0, 0]), ValueError, "x: wanted images"),
        (lambda: typical.radial_spectrum(x.long()), TypeError, "x: wanted"),
        (lambda: typical.radial_spectrum(x * float("nan"), bands=3), ValueError, "x: wanted finite images"),
        (lambda: typical.radial_spectrum(torch.ones(8, 8), bands=3), ValueError, "x: wanted finite images"),
        (lambda: typical.radial_spectrum(x), ValueError, "bands: wanted fewer than 16 for 8 x 8 pixels; band 0"),
    ):
        with pytest.raises(error, match=words):
            call()
