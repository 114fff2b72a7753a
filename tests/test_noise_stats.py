"""noise_stats: against NumPy in float64, and the typicality of typical noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastattack import ops
from tests.cases import DTYPES, LAYOUTS, as_format
from tests.subjects import Subject


def numpy_stats(noise, sigma, mean):
    n = noise.double().cpu().numpy().reshape(noise.shape[0], -1)
    gap = 0.5 * (((n - np.reshape(mean, (-1, 1))) ** 2).mean(1) / np.asarray(sigma) ** 2 - 1)
    return [n.mean(1), n.std(1), np.abs(n).sum(1), np.sqrt((n**2).sum(1)), np.abs(n).max(1), gap]


@pytest.mark.parametrize("dtype", DTYPES)
def test_against_numpy(subject: Subject, dtype):
    g = torch.Generator().manual_seed(0)
    for number, (shape, kind) in enumerate([*LAYOUTS, ((2, 1, 200, 211), "contiguous")]):
        if subject.slow and shape[-1] > 100:
            continue
        noise = as_format((0.03 + 0.1 * torch.randn(shape, generator=g)).to(subject.device, dtype), kind)
        sigma = (0.05 + 0.1 * torch.rand(shape[0], generator=g)).to(subject.device)
        for s, m in subject.turns(((0.1, 0.0), (sigma, 0.02), (0.1, sigma)), number + DTYPES.index(dtype)):
            got = ops.noise_stats(noise, sigma=s, mean=m, backend=subject.backend)
            assert got.mean.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)
            want = numpy_stats(noise, *(v.cpu().numpy() if isinstance(v, torch.Tensor) else v for v in (s, m)))
            for name, a, b in zip(got._fields, got, want, strict=True):
                scale = np.maximum(np.abs(b), 0.1)  # of the noise: a mean near zero has no relative error of its own
                assert (np.abs(a.cpu().double().numpy() - b) <= 1e-6 * scale).all(), f"{name} {shape} {kind}"


def test_a_million_numbers_keep_six_digits():
    noise = 1.0 + 0.01 * torch.randn(1, 1, 1024, 1025, generator=torch.Generator().manual_seed(0))
    got = ops.noise_stats(noise, sigma=0.01, mean=1.0)
    want = numpy_stats(noise, 0.01, 1.0)
    for a, b in zip(got, want, strict=True):
        assert abs(a.item() - b[0]) <= 1e-6 * max(abs(b[0]), 1e-2)


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e30, 1e38])
def test_magnitudes_at_the_ends_of_float32(subject: Subject, scale):
    noise = (torch.tensor([[3.0, -4.0, 0.0, 0.0]], dtype=torch.float64) * scale / 10).float().to(subject.device)
    got = ops.noise_stats(noise, backend=subject.backend)
    assert got.typicality is None
    exact = noise.double().cpu() / scale  # what float32 kept of it, far from the ends of float64
    for value, want in ((got.l2, exact.norm()), (got.l1, exact.abs().sum()), (got.mean, exact.mean())):
        assert value.double().item() / scale == pytest.approx(want.item(), rel=2e-2 if scale < 1e-37 else 1e-6)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_float64_squares_do_not_overflow(subject: Subject, scale):
    noise = (torch.tensor([[3.0, -4.0]], dtype=torch.float64) * scale).to(subject.device)
    got = ops.noise_stats(noise, sigma=scale, backend=subject.backend)
    assert got.l2.item() / scale == pytest.approx(5)
    assert got.typicality.item() == pytest.approx(0.5 * (12.5 - 1))


def test_nan_and_infinity_show(subject: Subject):
    noise = torch.tensor([[1.0, float("nan")], [1.0, float("inf")], [1.0, 2.0]], device=subject.device)
    got = ops.noise_stats(noise, sigma=1.0, backend=subject.backend)
    assert all(column[0].isnan() for column in got)
    assert got.linf[1].isinf()
    assert got.l2[1].isinf()
    assert got.linf[2] == 2


def test_gaussian_noise_is_typical():
    """Under the model tau has mean 0 and standard deviation 1 / sqrt(2 d)."""
    noise = 25 / 255 * torch.randn(400, 1, 32, 32, generator=torch.Generator().manual_seed(3))
    tau = ops.noise_stats(noise, sigma=25 / 255).typicality
    spread = 1 / (2 * 1024) ** 0.5
    assert abs(tau.mean().item()) < 4 * spread / 20
    assert tau.std().item() == pytest.approx(spread, rel=0.15)


def test_an_empty_batch_has_empty_statistics():
    got = ops.noise_stats(torch.zeros(0, 3, 4, 4), sigma=1.0)
    assert all(column.shape == (0,) for column in got)
