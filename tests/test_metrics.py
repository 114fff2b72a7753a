"""metrics: against numpy in float64, scikit-image, and values worked out by hand."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fastattack.metrics import lpips, mse, psnr, ssim


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 1, 5, 7), (3, 3, 33, 17), (4, 10), (1, 1, 1024, 1024)])
def test_agrees_with_numpy(shape: tuple[int, ...]) -> None:
    g = torch.Generator().manual_seed(1)
    a, b = torch.randn(shape, generator=g), torch.randn(shape, generator=g)  # float32: differences would round
    diff = a.numpy().astype(np.float64) - b.numpy().astype(np.float64)
    expected = (diff**2).reshape(shape[0], -1).mean(1)
    np.testing.assert_allclose(mse(a, b).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(psnr(a, b).numpy(), 10 * np.log10(1 / expected), rtol=1e-12)
    assert mse(a, b).shape == psnr(a, b).shape == (shape[0],)
    assert psnr(a, b).dtype == torch.float64


def test_by_hand() -> None:
    a = torch.zeros(2, 1, 4, 4)
    b = torch.stack((torch.full((1, 4, 4), 0.5), torch.full((1, 4, 4), -2.0)))  # outside [0, 1]: not clipped
    assert mse(a, b).tolist() == [0.25, 4.0]
    assert psnr(a, b).tolist() == pytest.approx([10 * math.log10(4), -10 * math.log10(4)], abs=1e-12)
    assert psnr(255 * a, 255 * b, data_range=255).tolist() == pytest.approx(psnr(a, b).tolist(), abs=1e-12)


def test_equal_inputs_are_infinite_per_sample() -> None:
    a = torch.rand(2, 3, 8, 8)
    b = a.clone()
    b[1, 0, 0, 0] += 0.25
    values = psnr(a, b)
    assert values[0] == math.inf
    assert values[1] == pytest.approx(10 * math.log10(192 / 0.0625), abs=1e-4)


def test_computed_in_float64() -> None:
    """A difference that float32 squares would lose, and half precision inputs."""
    a = torch.ones(1, 1, 64, 64, dtype=torch.float64)
    assert mse(a, a + 1e-9).item() == pytest.approx(1e-18, rel=1e-6)
    h = torch.rand(2, 1, 16, 16).half()
    assert mse(h, torch.zeros_like(h)).tolist() == pytest.approx((h.double() ** 2).mean((1, 2, 3)).tolist(), rel=1e-12)


def test_raises() -> None:
    a = torch.zeros(2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"\(2, 1, 4, 4\) and \(1, 1, 4, 4\)"):
        mse(a, a[:1])  # would broadcast
    with pytest.raises(ValueError, match="shapes differ"):
        psnr(a, a[..., :3])
    with pytest.raises(ValueError, match="batch"):
        mse(torch.zeros(4), torch.zeros(4))
    with pytest.raises(ValueError, match="batch"):
        mse(torch.zeros(2, 0), torch.zeros(2, 0))
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="data_range"):
            psnr(a, a, data_range=bad)


# ---- SSIM


BELL = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
BELL /= BELL.sum()


def by_definition(a: np.ndarray, b: np.ndarray, data_range: float = 1.0) -> float:
    """SSIM of two images (H, W) from Wang et al. 2004, equation 13: window by window, about its means."""
    weights = np.outer(BELL, BELL)
    values = []
    for i in range(a.shape[0] - 10):
        for j in range(a.shape[1] - 10):
            p, q = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
            mp, mq = (weights * p).sum(), (weights * q).sum()
            vp, vq = (weights * (p - mp) ** 2).sum(), (weights * (q - mq) ** 2).sum()
            both = (weights * (p - mp) * (q - mq)).sum()
            c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
            values.append((2 * mp * mq + c1) * (2 * both + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return float(np.mean(values))


@pytest.mark.parametrize(("shape", "scale"), [((2, 1, 14, 17), 1.0), ((2, 3, 12, 11), 255.0), ((1, 1, 11, 11), 1.0)])
def test_ssim_by_definition(shape: tuple[int, ...], scale: float) -> None:
    g = torch.Generator().manual_seed(2)
    a = torch.rand(shape, generator=g, dtype=torch.float64) * scale
    b = a + 0.2 * scale * torch.randn(shape, generator=g, dtype=torch.float64)  # leaves the range: counts as it is
    expected = [
        np.mean([by_definition(p, q, scale) for p, q in zip(x, y, strict=True)])
        for x, y in zip(a.numpy(), b.numpy(), strict=True)
    ]
    found = ssim(a, b, data_range=scale)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)


def test_ssim_as_scikit_image_has_it() -> None:
    skimage = pytest.importorskip("skimage.metrics", reason="needs scikit-image")
    g = torch.Generator().manual_seed(3)
    a = torch.rand(2, 3, 40, 33, generator=g)
    b = (a + 0.1 * torch.randn(a.shape, generator=g)).clamp(0, 1)
    expected = [
        skimage.structural_similarity(
            x.double().numpy(), y.double().numpy(), channel_axis=0, data_range=1.0,
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        )
        for x, y in zip(a, b, strict=True)
    ]  # fmt: skip
    np.testing.assert_allclose(ssim(a, b).numpy(), expected, rtol=1e-10)


def test_ssim_of_constants_in_closed_form() -> None:
    """Without variance only the luminance term is left: (2 p q + c1) / (p^2 + q^2 + c1); and 1 for equal images."""
    p, q = 0.2, 0.7
    a, b = torch.full((1, 1, 16, 16), p, dtype=torch.float64), torch.full((1, 1, 16, 16), q, dtype=torch.float64)
    assert ssim(a, b).item() == pytest.approx((2 * p * q + 1e-4) / (p * p + q * q + 1e-4), rel=1e-9)
    assert ssim(a, a).item() == pytest.approx(1, abs=1e-12)


def test_ssim_keeps_samples_apart() -> None:
    g = torch.Generator().manual_seed(4)
    a, b = torch.rand(3, 1, 13, 13, generator=g), torch.rand(3, 1, 13, 13, generator=g)
    together = ssim(a, b)
    b[1] = float("nan")
    apart = ssim(a, b)
    assert apart[[0, 2]].tolist() == together[[0, 2]].tolist()
    assert apart[1].isnan()


def test_ssim_refuses() -> None:
    a = torch.rand(2, 1, 16, 10)
    with pytest.raises(ValueError, match=r"11 x 11 pixels at least, got shape \(2, 1, 16, 10\)"):
        ssim(a, a)
    with pytest.raises(ValueError, match="shapes differ"):
        ssim(torch.rand(2, 1, 16, 16), torch.rand(1, 1, 16, 16))
    with pytest.raises(ValueError, match=r"\[B, C, H, W\]"):
        ssim(torch.rand(16, 16), torch.rand(16, 16))
    with pytest.raises(ValueError, match="data_range"):
        ssim(torch.rand(1, 1, 16, 16), torch.rand(1, 1, 16, 16), data_range=0)


def test_ssim_without_torchmetrics_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image", None)
    with pytest.raises(RuntimeError, match=r"fastattack\[evaluate\]"):
        ssim(torch.rand(1, 1, 16, 16), torch.rand(1, 1, 16, 16))


# ---- LPIPS


def halves(x: torch.Tensor) -> list[torch.Tensor]:
    """A network of two layers of features whose LPIPS can be worked out in numpy."""
    return [x, x[..., ::2, ::2] ** 2 + 1]


def lpips_by_definition(a: np.ndarray, b: np.ndarray, lins: list[np.ndarray]) -> np.ndarray:
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    total = np.zeros(len(a))
    layers = []
    for x in (a, b):
        z = (2 * x - 1 - shift[None, :, None, None]) / scale[None, :, None, None]
        layers.append([z, z[..., ::2, ::2] ** 2 + 1])
    for p, q, lin in zip(*layers, lins, strict=True):
        u, v = (f / (np.sqrt((f**2).sum(1, keepdims=True)) + 1e-10) for f in (p, q))
        total += ((u - v) ** 2 * lin[None, :, None, None]).sum(1).mean((1, 2))
    return total


def save_lins(path: Path, lins: list[np.ndarray]) -> None:
    state = {f"lin{i}.model.1.weight": torch.from_numpy(w).reshape(1, 3, 1, 1) for i, w in enumerate(lins)}
    torch.save(state, path)


def test_lpips_by_definition_and_of_a_file_that_changes(tmp_path: Path) -> None:
    g = np.random.default_rng(5)
    a, b = g.random((2, 3, 8, 8)), g.random((2, 3, 8, 8))
    file = tmp_path / "alex.pth"
    for when in (1, 2):
        lins = [g.random(3), g.random(3)]
        save_lins(file, lins)
        os.utime(file, (when, when))
        found = lpips(torch.from_numpy(a).requires_grad_(), torch.from_numpy(b), weights=file, net=halves)
        assert found.dtype == torch.float64
        assert not found.requires_grad
        np.testing.assert_allclose(found.numpy(), lpips_by_definition(a, b, lins), rtol=1e-10)
    assert lpips(torch.from_numpy(a), torch.from_numpy(a), weights=file, net=halves).tolist() == [0, 0]


def test_lpips_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = torch.rand(1, 3, 64, 64)
    with pytest.raises(FileNotFoundError, match=r"gone\.pth"):
        lpips(a, a, weights=tmp_path / "gone.pth")
    save_lins(tmp_path / "alex.pth", [np.ones(3)])
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(RuntimeError, match=r"fastattack\[lpips\]"):
        lpips(a, a, weights=tmp_path / "alex.pth")
