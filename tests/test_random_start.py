"""random_start_: Philox by its published vectors, the same bits everywhere, uniform in the ball."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastattack import ops
from fastattack.ops import reference_random
from tests.cases import DTYPES, LAYOUTS, as_format
from tests.subjects import Subject

PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)  # the digits of pi that Random123's vectors use


@pytest.mark.parametrize(
    ("counter", "key", "want"),
    [
        ((0,) * 4, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (PI, (0xA4093822, 0x299F31D0), (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ],
)
def test_philox_gives_the_published_vectors(counter, key, want):
    words = reference_random.philox(*(torch.tensor([c]) for c in counter), seed=key[0] | key[1] << 32)
    assert tuple(int(w) for w in words) == want


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_same_bits_on_every_backend(subject: Subject, norm, dtype):
    for number, (shape, kind) in enumerate(LAYOUTS):
        origin = as_format(
            torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(subject.device, dtype), kind
        )
        ids = torch.arange(shape[0], device=subject.device) * (2**33 + 1) + 5
        eps = 0.01 + 0.1 * torch.arange(shape[0], device=subject.device)
        every = ({"eps": 0.05, "seed": 3}, {"eps": eps, "seed": 2**64 - 1, "sample_ids": ids, "bounds": (0, 1)})
        for options in subject.turns(every, number + DTYPES.index(dtype)):
            want = torch.full_like(origin, float("nan"))
            got = as_format(want, kind)
            ops.random_start_(want, origin, norm=norm, backend="reference", **options)
            assert ops.random_start_(got, origin, norm=norm, backend=subject.backend, **options) is got
            assert torch.equal(got, want), f"{shape} {kind} {options}"


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_same_numbers_in_every_split_and_memory_format(norm):
    origin = torch.rand(6, 3, 40, 41)
    whole = ops.random_start_(torch.empty_like(origin), origin, norm=norm, eps=0.1, seed=9)
    part = ops.random_start_(
        torch.empty_like(origin[4:]), origin[4:], norm=norm, eps=0.1, seed=9, sample_ids=torch.tensor([4, 5])
    )
    assert torch.equal(whole[4:], part)
    last = origin.to(memory_format=torch.channels_last)
    assert torch.equal(whole, ops.random_start_(torch.empty_like(last), last, norm=norm, eps=0.1, seed=9))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(whole, ops.random_start_(torch.empty_like(origin), origin, norm=norm, eps=0.1, seed=9))
    finally:
        torch.set_num_threads(threads)


def kolmogorov(x: np.ndarray) -> float:
    """Distance of the sample from the uniform distribution on (0, 1), times sqrt(n)."""
    x = np.sort(x)
    n = len(x)
    steps = np.arange(n + 1) / n
    return float(max((steps[1:] - x).max(), (x - steps[:-1]).max()) * n**0.5)


def test_linf_is_uniform_and_independent():
    zero = torch.zeros(4, 1, 512, 512, dtype=torch.float64)
    x = ops.random_start_(zero.clone(), zero, norm="linf", eps=1.0, seed=1).flatten(1).numpy()
    assert np.abs(x).max() <= 1
    assert kolmogorov((x.ravel() + 1) / 2) < 1.95  # exceeded once in a thousand
    n = x.shape[1]
    assert np.abs(np.corrcoef(x) - np.eye(4)).max() < 4 / n**0.5
    assert abs(np.corrcoef(x[0, :-1], x[0, 1:])[0, 1]) < 4 / n**0.5
    other = ops.random_start_(zero.clone(), zero, norm="linf", eps=1.0, seed=2).flatten(1).numpy()
    assert abs(np.corrcoef(x[0], other[0])[0, 1]) < 4 / n**0.5


@pytest.mark.parametrize("d", [1, 2, 3, 10])
def test_l2_is_uniform_in_the_ball(d):
    """|x| / eps to the power d is uniform, and so is the direction: each coordinate has variance eps^2 / (d + 2)."""
    zero = torch.zeros(20000, d, dtype=torch.float64)
    x = ops.random_start_(zero.clone(), zero, norm="l2", eps=2.0, seed=4).numpy()
    radius = np.linalg.norm(x, axis=1) / 2
    assert radius.max() <= 1
    assert kolmogorov(radius**d) < 1.95
    assert np.abs(x.mean(0)).max() < 4 * 2 / (d + 2) ** 0.5 / 20000**0.5
    assert np.abs(x.var(0) * (d + 2) / 4 - 1).max() < 0.05


def test_normals_are_normal():
    from scipy import stats

    normals, _ = reference_random.start_normals(200_000, 7, torch.arange(3))
    for sample in normals.double().numpy():
        assert stats.kstest(sample, "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(normals.numpy()) - np.eye(3)).max() < 0.01


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_never_outside(dtype, norm):
    origin = torch.rand(50, 1, 6, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    adv = ops.random_start_(torch.empty_like(origin), origin, norm=norm, eps=0.03, seed=0)
    delta = (adv.double() - origin.double()).flatten(1)
    size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert size.max().item() <= 0.03 * (1 + 1e-7)
    assert not torch.equal(adv, origin)
