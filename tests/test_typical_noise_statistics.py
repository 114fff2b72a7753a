"""typical_noise as random numbers: against a generator written here, and against what theory says of ten million."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from scipy import special, stats

from fastattack import ops
from fastattack.ops.draws import SLOTS, draw

ONCE_IN_100000 = 4.42  # a standard normal is beyond it, on either side
ROWS, COUNT = 10, 1_000_000


def philox(counter: tuple[np.ndarray, ...], seed: int) -> list[np.ndarray]:
    """Philox 4x32-10 as Salmon et al. (SC 2011) print it, in 64-bit integers."""
    a, b, c, d = (np.asarray(v, dtype=np.uint64) for v in counter)
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    for turn in range(10):
        k0, k1 = (seed + turn * 0x9E3779B9) & 0xFFFFFFFF, ((seed >> 32) + turn * 0xBB67AE85) & 0xFFFFFFFF
        p, q = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        a, b, c, d = (q >> half) ^ b ^ np.uint64(k0), q & low, (p >> half) ^ d ^ np.uint64(k1), p & low
    return [a, b, c, d]


def box_muller(word0: np.ndarray, word1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two normals in float64 from the upper 24 bits of two words; the first shifted off zero."""
    u, v = ((word >> np.uint64(8)).astype(float) for word in (word0, word1))
    radius, angle = np.sqrt(-2 * np.log((u + 1) * 2.0**-24)), 2 * np.pi * 2.0**-24 * v
    return radius * np.cos(angle), radius * np.sin(angle)


def normals(count: int, seed: int, sample_id: int) -> np.ndarray:
    quads = np.arange(-(-count // 4))
    words = philox(np.broadcast_arrays(quads, sample_id & 0xFFFFFFFF, sample_id >> 32, 2), seed)
    return np.stack([*box_muller(*words[:2]), *box_muller(*words[2:])], -1).ravel()[:count]


@pytest.mark.parametrize(("seed", "sample_id"), [(0, 0), (1, 5), ((7 << 32) + 3, (9 << 32) + 2), (2**64 - 1, 2**62)])
def test_plain_noise_is_philox_and_box_muller(seed, sample_id):
    want = normals(100_003, seed, sample_id)
    noise = ops.typical_noise((1, 100_003), sigma=1.0, typicality=None, seed=seed, sample_ids=torch.tensor([sample_id]))
    # Measured: 2.1 ulp of float32 at most. The exact zeros of sine and cosine are 1e-16 in float64.
    np.testing.assert_allclose(noise[0].double().numpy(), want, rtol=3 * 2.0**-23, atol=1e-14)


def test_the_shell_is_the_plain_noise_moved_and_scaled():
    plain = ops.typical_noise((3, 5000), sigma=1.0, typicality=None, seed=3).double()
    shell = ops.typical_noise((3, 5000), sigma=0.5, typicality=0.25, mean=0.1, seed=3).double()
    centred = plain - plain.mean(1, keepdim=True)
    want = 0.1 + 0.5 * (5000 * 1.5) ** 0.5 * centred / centred.norm(dim=1, keepdim=True)
    assert (shell - want).abs().max() < 1e-6


@functools.cache
def ten_million(seed: int) -> np.ndarray:
    return ops.typical_noise((ROWS, COUNT), sigma=1.0, typicality=None, seed=seed, backend="cpu").numpy()


def test_moments_and_tails():
    x = ten_million(1).ravel()
    n, total = len(x), dict.fromkeys(range(1, 5), 0.0)
    for part in np.array_split(x, 20):
        wide = part.astype(float)
        power = np.ones_like(wide)
        for k in total:
            power *= wide
            total[k] += power.sum()
    for k, (mean, variance) in {1: (0, 1), 2: (1, 2), 3: (0, 15), 4: (3, 96)}.items():
        assert abs(total[k] / n - mean) < ONCE_IN_100000 * (variance / n) ** 0.5, f"moment {k}"
    size = np.abs(x)
    for edge in (1.0, 2.0, 3.0, 4.0, 4.5, 5.0):
        expected = 2 * special.ndtr(-edge) * n
        assert abs((size > edge).sum() - expected) < ONCE_IN_100000 * expected**0.5 + 1, f"tail {edge}"
    assert 5 < size.max() < 5.77  # sqrt(-2 ln 2^-24): normal_terms counts on less than 8


def kolmogorov(uniform: np.ndarray) -> float:
    """Distance of the sample from the uniform distribution on (0, 1), times sqrt(n)."""
    u = np.sort(uniform)
    n = len(u)
    steps = np.arange(n + 1) / n
    return float(max((steps[1:] - u).max(), (u - steps[:-1]).max()) * n**0.5)


def test_ten_million_are_normal():
    x = ten_million(1)
    assert kolmogorov(special.ndtr(x.ravel())) < 2.47  # exceeded once in 100000
    for row in x[:3]:
        assert kolmogorov(special.ndtr(row)) < 2.47


def test_neighbours_are_independent():
    """Within a pair, a quad, a kernel's block, a row of an image, and far apart; values and squares."""
    x = ten_million(1)
    squares = (np.square(x) - 1) / 2**0.5
    for values, name in ((x, "value"), (squares, "square")):
        for lag in (1, 2, 3, 4, 5, 8, 16, 64, 128, 512, 1024, 4096, 65536):
            here, there = values[:, :-lag], values[:, lag:]
            z = np.einsum("ij,ij->", here, there, dtype=float) / here.size**0.5
            assert abs(z) < ONCE_IN_100000, f"{name}, lag {lag}"


def test_samples_and_seeds_are_independent():
    x = ten_million(1)
    rows = [*x[:6], *(ten_million(seed)[0] for seed in (2, 1 + 2**32))]
    wide = ops.typical_noise((1, COUNT), sigma=1.0, typicality=None, seed=1, sample_ids=torch.tensor([2**32])).numpy()
    off = np.corrcoef([*rows, wide[0]]) - np.eye(len(rows) + 1)
    assert np.abs(off).max() * COUNT**0.5 < ONCE_IN_100000
    start = ops.random_start_(torch.zeros(1, COUNT), torch.zeros(1, COUNT), norm="l2", eps=1.0, seed=1)[0].numpy()
    assert abs(np.corrcoef(start, x[0])[0, 1]) * COUNT**0.5 < ONCE_IN_100000, "another stream, other numbers"


SIDE, SAMPLES = 8, 20_000


@functools.cache
def directions() -> np.ndarray:
    noise = ops.typical_noise((SAMPLES, 1, SIDE, SIDE), sigma=0.1, typicality=0.2, mean=0.02, seed=5)
    n = noise.double().flatten(1).numpy() - 0.02
    return n / np.linalg.norm(n, axis=1, keepdims=True)


def probes() -> list[np.ndarray]:
    """Unit vectors without a mean: cosine modes, a difference of two pixels, and random ones."""
    t = (np.arange(SIDE) + 0.5) * np.pi / SIDE
    pixel = np.zeros(SIDE * SIDE)
    pixel[0], pixel[1] = 1, -1
    found = [np.outer(np.cos(k * t), np.cos(m * t)).ravel() for k, m in ((0, 1), (1, 0), (1, 1), (3, 2), (7, 7))]
    found += [pixel, *np.random.default_rng(0).standard_normal((8, SIDE * SIDE))]
    return [(v - v.mean()) / np.linalg.norm(v - v.mean()) for v in found]


def test_the_direction_is_isotropic():
    """Uniform on the sphere of the d - 1 dimensions without a mean: (1 + p) / 2 of a projection p is beta."""
    u, half = directions(), (SIDE * SIDE - 2) / 2
    for number, probe in enumerate(probes()):
        p = u @ probe
        assert kolmogorov(stats.beta.cdf((1 + p) / 2, half, half)) < 2.47, f"probe {number}"
    # Every pair of pixels: covariance (1 - 1/d) / (d - 1) on the diagonal, -1/d / (d - 1) beside it.
    d = SIDE * SIDE
    covariance = u.T @ u / SAMPLES * (d - 1)
    assert np.abs(covariance - (np.eye(d) - 1 / d)).max() < 5.5 * (2 / SAMPLES) ** 0.5  # 2080 entries


def test_drawn_levels_are_uniform_and_independent():
    batch = 100_000
    like = torch.empty(batch, 1)
    ends = {"sigma": (0.1, 0.3), "typicality": (-0.2, 0.5), "mean": (-0.05, 0.05)}
    drawn = {name: draw(ends[name], name, like, 11, None).numpy() for name in SLOTS}
    unit = {name: (v - ends[name][0]) / (ends[name][1] - ends[name][0]) for name, v in drawn.items()}
    for name, u in unit.items():
        assert 0 < u.min() < u.max() < 1
        assert kolmogorov(u) < 2.47, name
    noise = ops.typical_noise((batch, 4), sigma=1.0, typicality=None, seed=11).numpy().T
    off = np.corrcoef([*unit.values(), *noise, *np.abs(noise)]) - np.eye(11)
    assert np.abs(off).max() * batch**0.5 < ONCE_IN_100000
    ids = torch.tensor([70_000, 3])
    for name in SLOTS:
        part = draw(ends[name], name, like[:2], 11, ids)
        assert np.array_equal(part.numpy(), drawn[name][ids]), "the same in every batch split"


def test_drawn_levels_are_what_the_noise_has():
    intervals = {"sigma": (0.1, 0.3), "typicality": (-0.2, 0.5), "mean": (-0.05, 0.05)}
    noise = ops.typical_noise((50, 3, 32, 32), seed=4, **intervals).double().flatten(1)
    drawn = {name: draw(intervals[name], name, noise, 4, None) for name in SLOTS}
    spread = drawn["sigma"] * (1 + 2 * drawn["typicality"]).sqrt()
    assert (noise.std(1, correction=0) / spread - 1).abs().max() < 1e-5
    assert ((noise.mean(1) - drawn["mean"]) / drawn["sigma"]).abs().max() < 1e-5
    assert torch.equal(
        ops.typical_noise((50, 3, 32, 32), seed=4, **intervals), ops.typical_noise((50, 3, 32, 32), seed=4, **drawn)
    )
