"""metrics: against numpy in float64 and against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fastattack.metrics import mse, psnr


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
