"""fa.udc.psf against closed forms of diffraction, and point spread functions from files."""

from __future__ import annotations

import gc
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import fastattack as fa
from fastattack.images import save_png

WAVE, FOCUS, PITCH, PIXEL = 530e-9, 4e-3, 100e-6, 3e-6
OPTICS = {"wavelengths": (WAVE,), "distance": FOCUS, "pitch": PITCH, "pixel": PIXEL}
SAMPLES = 20


def slits(*columns: int) -> np.ndarray:
    """A cell of 20 x 20 samples whose named columns are open."""
    cell = np.zeros((SAMPLES, SAMPLES))
    cell[:, list(columns)] = 1
    return cell


def frequencies(size: int, wave: float = WAVE) -> np.ndarray:
    """Cycles per metre at the middles of the pixels."""
    return (np.arange(size) - size // 2) * PIXEL / (wave * FOCUS)


def separable(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    found = rows[:, None] * columns[None, :]
    return found / found.sum()


def test_a_single_slit_gives_the_square_of_a_sinc():
    u = frequencies(25)
    width = 6 / SAMPLES * PITCH
    found = fa.udc.psf(slits(*range(3, 9)), size=25, cells=1, oversample=1, **OPTICS)
    expected = separable(np.sinc(PITCH * u) ** 2, np.sinc(width * u) ** 2)
    assert found.shape == (1, 25, 25)
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-9, atol=1e-15)


def test_two_slits_give_youngs_fringes():
    u = frequencies(31)
    width, apart = 2 / SAMPLES * PITCH, 10 / SAMPLES * PITCH
    found = fa.udc.psf(slits(3, 4, 13, 14), size=31, cells=1, oversample=1, **OPTICS)
    across = np.sinc(width * u) ** 2 * np.cos(np.pi * apart * u) ** 2
    np.testing.assert_allclose(found[0].numpy(), separable(np.sinc(PITCH * u) ** 2, across), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("cells", [2, 5])
def test_many_cells_give_the_orders_of_a_grating(cells):
    u = frequencies(33)
    width = 4 / SAMPLES * PITCH
    found = fa.udc.psf(slits(0, 1, 2, 3), size=33, cells=cells, oversample=1, **OPTICS)
    with np.errstate(invalid="ignore"):
        orders = np.sin(np.pi * cells * PITCH * u) ** 2 / (cells * np.sin(np.pi * PITCH * u)) ** 2
    orders[u == 0] = 1
    expected = separable(np.sinc(cells * PITCH * u) ** 2, np.sinc(width * u) ** 2 * orders)
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-7, atol=1e-14)


def test_a_disc_gives_the_airy_pattern():
    turn = (np.arange(2000) + 0.5) * np.pi / 2000
    radius = np.hypot(*np.meshgrid(frequencies(9), frequencies(9)))
    x = np.pi * PITCH * radius
    bessel = np.cos(turn - x[..., None] * np.sin(turn)).mean(-1)  # J1, by its integral
    airy = np.where(x == 0, 1, 2 * bessel / np.where(x == 0, 1, x)) ** 2
    found = fa.udc.psf(np.ones((256, 256)), size=9, cells=1, oversample=1, aperture="round", **OPTICS)
    np.testing.assert_allclose(found[0].numpy(), airy / airy.sum(), atol=3e-5)


def test_pixels_average_the_intensity_and_channels_their_wavelengths():
    fine = (np.arange(-1.5, 2, 1) / 4)[None, :] + np.arange(-4, 5)[:, None]  # four middles in each of nine pixels

    def channel(*waves: float) -> np.ndarray:
        total = np.zeros((9, 9))
        for wave in waves:  # of the same light: a larger pattern is fainter, in both directions
            u = fine * PIXEL / (wave * FOCUS)
            rows, columns = (np.sinc(PITCH * u) ** 2).mean(1), (np.sinc(5 / SAMPLES * PITCH * u) ** 2).mean(1)
            total += rows[:, None] * columns[None, :] / wave**2
        return total / total.sum()

    options = {**OPTICS, "wavelengths": (450e-9, (520e-9, 640e-9))}
    found = fa.udc.psf(slits(*range(5)), size=9, cells=1, oversample=4, **options).numpy()
    assert found.shape == (2, 9, 9)
    np.testing.assert_allclose(found[0], channel(450e-9), rtol=1e-9)
    np.testing.assert_allclose(found[1], channel(520e-9, 640e-9), rtol=1e-9)


def grating(cells: int, points: np.ndarray) -> np.ndarray:
    """(pixels,) light of ``cells`` slits of 4 samples at points (pixels, n), in pixels from the middle, averaged."""
    u = points * PIXEL / (WAVE * FOCUS)
    with np.errstate(invalid="ignore"):
        orders = np.sin(np.pi * cells * PITCH * u) ** 2 / (cells * np.sin(np.pi * PITCH * u)) ** 2
    orders[np.isclose(np.sin(np.pi * PITCH * u), 0, atol=1e-12)] = 1
    return (np.sinc(4 / SAMPLES * PITCH * u) ** 2 * orders).mean(1)


def grid(per_pixel: int) -> np.ndarray:
    return np.arange(-4, 5)[:, None] + ((np.arange(per_pixel) + 0.5) / per_pixel - 0.5)[None, :]


def block(cells: int, points: np.ndarray) -> np.ndarray:
    """The same for the whole aperture, open along the slits."""
    return (np.sinc(cells * PITCH * points * PIXEL / (WAVE * FOCUS)) ** 2).mean(1)


@pytest.mark.parametrize("cells", [3, 20, 45])
def test_fringes_within_a_pixel_are_averaged_however_fine(cells):
    """A pixel holds 0.4, 2.8 and 6.4 of the finest; the oracle takes 2000 points of the closed form."""
    found = fa.udc.psf(slits(0, 1, 2, 3), size=9, cells=cells, **OPTICS)[0].numpy()
    expected = separable(block(cells, grid(2000)), grating(cells, grid(2000)))
    assert np.abs(found - expected).sum() < 0.005
    assert found[4, 4] == pytest.approx(expected[4, 4], rel=0.003)


def test_a_number_of_points_is_taken_as_given_or_refused_where_it_misses_fringes():
    found = fa.udc.psf(slits(0, 1, 2, 3), size=9, cells=20, oversample=5, **OPTICS)[0].numpy()
    np.testing.assert_allclose(found, separable(block(20, grid(5)), grating(20, grid(5))), rtol=1e-7, atol=1e-14)
    with pytest.raises(ValueError, match=r"^oversample: wanted 1 .*, None or at least 3, .*got 2"):
        fa.udc.psf(slits(0, 1, 2, 3), size=9, cells=20, oversample=2, **OPTICS)
    with pytest.raises(ValueError, match=r"^oversample: wanted .* at least 14"):
        fa.udc.psf("toled", cells=60, oversample=4)


def test_wavelengths_may_be_numpys():
    expected = fa.udc.psf("toled", size=5, wavelengths=(float(np.float32(5e-7)),))
    for waves in ((np.float32(5e-7),), np.array([5e-7], dtype=np.float32), ((np.float32(5e-7),),)):
        assert torch.equal(fa.udc.psf("toled", size=5, wavelengths=waves), expected)


@pytest.mark.parametrize("given", [np.ones((3, 3)) + 1j, torch.ones(3, 3, dtype=torch.complex64)])
def test_complex_numbers_are_refused(given, tmp_path):
    with pytest.raises(TypeError, match=r"^psf: wanted real numbers"):
        fa.udc.Degradation(given)
    with pytest.raises(TypeError, match=r"^layout: wanted"):
        fa.udc.psf(given)
    np.save(tmp_path / "k.npy", np.asarray(given))
    save_file({"psf": torch.as_tensor(given).to(torch.complex64)}, tmp_path / "k.safetensors")
    for name in ("k.npy", "k.safetensors"):
        with pytest.raises((TypeError, ValueError), match=rf"^psf: .*{name}"):
            fa.udc.read_psf(tmp_path / name)


@pytest.mark.parametrize("name", ["toled", "poled"])
def test_named_layouts_have_about_the_open_area_of_their_displays(name):
    cell = fa.udc.layout(name)
    assert set(cell.unique().tolist()) == {0.0, 1.0}
    assert float(cell.mean()) == pytest.approx({"toled": 0.21, "poled": 0.23}[name], abs=0.01)
    spread = fa.udc.psf(name)
    assert torch.allclose(spread.sum((1, 2)), torch.ones(1, dtype=torch.float64))
    assert torch.allclose(spread, spread.flip(1, 2), atol=1e-12)  # real transmissions: the same in both directions
    # stripes spread light across alone: what is above and below the row of orders is far less
    share = float(spread[0, 15:18].sum())
    assert share > 0.9 if name == "toled" else share < 0.6


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"size": 32}, "size: wanted an odd"),
        ({"size": 0}, "size"),
        ({"cells": 0}, "cells"),
        ({"oversample": 0}, "oversample"),
        ({"pitch": -1e-6}, "pitch"),
        ({"distance": 0.0}, "distance"),
        ({"pixel": float("nan")}, "pixel"),
        ({"aperture": "hexagon"}, "aperture"),
        ({"wavelengths": ()}, "wavelengths"),
        ({"wavelengths": None}, "wavelengths: wanted one entry"),
        ({"wavelengths": 5e-7}, "wavelengths: wanted one entry"),
        ({"wavelengths": "green"}, "wavelengths: wanted one entry"),
        ({"wavelengths": (None,)}, "wavelengths: wanted a length"),
        ({"wavelengths": (530e-9, ())}, "wavelengths"),
        ({"wavelengths": (-530e-9,)}, "wavelengths"),
        ({"layout": "lcd"}, "layout: wanted one of 'toled', 'poled'"),
        ({"layout": np.zeros((4, 4))}, "layout: wanted an open part"),
        ({"layout": np.full((4, 4), np.nan)}, "layout: wanted transmissions"),
        ({"layout": 2 * np.ones((4, 4))}, "layout: wanted transmissions"),
        ({"layout": np.ones(4)}, "layout: wanted a 2-D array"),
    ],
)
def test_optics_that_cannot_be_are_named(options, word):
    with pytest.raises(ValueError, match=f"^{word}"):
        fa.udc.psf(options.pop("layout", "toled"), **options)


# -- files -------------------------------------------------------------------------------------------------------------


def spread(channels: int = 1) -> Tensor:
    return torch.rand(channels, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".png", ".safetensors"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_file_gives_what_was_written_normalised(suffix, channels, tmp_path):
    path, given = tmp_path / f"k{suffix}", spread(channels)
    if suffix == ".npy":
        np.save(path, given.permute(1, 2, 0).numpy() if channels == 3 else given[0].numpy())
    elif suffix == ".npz":
        np.savez(path, other=np.ones(3), psf=given.numpy())
    elif suffix == ".png":
        given = (given / given.max() * 255).round() / 255
        save_png(path, given.float())
    else:
        save_file({"k": given}, path)
    found = fa.udc.read_psf(path)
    assert found.dtype == torch.float64
    assert torch.allclose(found, given / given.sum((1, 2), keepdim=True), atol=1e-6)


def test_a_square_is_cut_around_the_brightest_pixel_of_an_even_file(tmp_path):
    given = np.full((8, 8, 3), 0.01)
    given[2:5, 3:6, :] = 0.5
    given[3, 4] = 1.0
    np.save(tmp_path / "k.npy", given)
    with pytest.raises(ValueError, match=r"odd height and width.*got \(8, 8\); read_psf\(FILE, size=...\)"):
        fa.udc.read_psf(tmp_path / "k.npy")
    found = fa.udc.read_psf(tmp_path / "k.npy", size=3)
    assert found.shape == (3, 3, 3)
    assert found[0, 1, 1] == pytest.approx(1 / 5)
    with pytest.raises(ValueError, match="does not lie in"):
        fa.udc.read_psf(tmp_path / "k.npy", size=9)
    with pytest.raises(ValueError, match="size: wanted an odd"):
        fa.udc.read_psf(tmp_path / "k.npy", size=4)


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (np.array([[1.0, -0.1, 0.0]]), "numbers >= 0"),
        (np.array([[1.0, np.nan, 0.0]]), "finite numbers"),
        (np.zeros((3, 3)), "some light"),
        (np.ones((2, 3, 5)), "with C 1 or 3"),
        (np.ones(3), "with C 1 or 3"),
        (np.ones((3, 4)), "odd height and width"),
        (np.ones((0, 3)), "with C 1 or 3"),
    ],
)
def test_what_is_no_point_spread_function_is_named(bad, word, tmp_path):
    with pytest.raises(ValueError, match=f"^psf: wanted .*{word}"):
        fa.udc.Degradation(bad)
    np.save(tmp_path / "bad.npy", bad)
    with pytest.raises(ValueError, match=f"^psf: .*bad.npy: wanted .*{word}"):
        fa.udc.read_psf(tmp_path / "bad.npy")


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        fa.udc.read_psf(tmp_path / "none.npy")
    for name, content in (("k.npy", b"nonsense"), ("k.png", b"nonsense"), ("k.safetensors", b"nonsense")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            fa.udc.read_psf(tmp_path / name)
    (tmp_path / "k.txt").write_text("1")
    with pytest.raises(ValueError, match=r"wanted a \.npy"):
        fa.udc.read_psf(tmp_path / "k.txt")
    np.savez(tmp_path / "two.npz", a=np.ones((3, 3)), b=np.ones((3, 3)))
    with pytest.raises(ValueError, match="one array or one called 'psf', got a, b"):
        fa.udc.read_psf(tmp_path / "two.npz")
    np.save(tmp_path / "words.npy", np.array([["a"]]))
    with pytest.raises(TypeError, match="numbers"):
        fa.udc.read_psf(tmp_path / "words.npy")
    with pytest.raises(TypeError, match=r"^psf: wanted an array"):
        fa.udc.Degradation("toled")


def test_a_damaged_archive_is_named_and_a_whole_one_closed(tmp_path):
    path = tmp_path / "k.npz"
    np.savez_compressed(path, psf=spread().numpy())
    whole = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a file left open would tell
        fa.udc.read_psf(path)
        gc.collect()
    damaged = bytearray(whole)
    damaged[80:120] = bytes(40)  # within the array
    for content in (whole[:-30], whole[:40], bytes(damaged)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"^psf: .*k\.npz: cannot be read as an array"):
            fa.udc.read_psf(path)
