"""fa.udc.psf against closed forms of diffraction, and point spread functions from files."""

from __future__ import annotations

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
