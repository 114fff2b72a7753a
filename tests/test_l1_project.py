"""project_ and random_start_ with norm="l1": the nearest point of ball and bounds, by oracles in float64 NumPy."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastattack import ops
from tests.cases import DTYPES, Images, all_images, as_format, images, ulp_distance
from tests.subjects import Subject


def duchi(d: np.ndarray, eps: float) -> np.ndarray:
    """The point of the l1 ball nearest to d, by sorting (Duchi et al., ICML 2008)."""
    if np.abs(d).sum() <= eps:
        return d
    u = np.sort(np.abs(d))[::-1]
    over = (np.cumsum(u) - eps) / np.arange(1, len(u) + 1)
    lam = over[np.nonzero(u > over)[0][-1]]
    return np.sign(d) * np.maximum(np.abs(d) - lam, 0)


def bisected(d: np.ndarray, low: np.ndarray, high: np.ndarray, eps: float) -> np.ndarray:
    """The nearest point of ball and box, its threshold by bisection."""

    def at(lam: float) -> np.ndarray:
        return np.clip(np.sign(d) * np.maximum(np.abs(d) - lam, 0), low, high)

    if np.abs(at(0.0)).sum() <= eps:
        return at(0.0)
    outside, inside = 0.0, float(np.abs(d).max())
    for _ in range(200):
        middle = 0.5 * (outside + inside)
        outside, inside = (middle, inside) if np.abs(at(middle)).sum() > eps else (outside, middle)
    return at(inside)


def project(adv, origin, subject: Subject, **options):
    return ops.project_(adv.clone(), origin, norm="l1", backend=subject.backend, **options)


def length(adv, origin):
    return (adv.double() - origin.double()).abs().flatten(1).sum(1)


def cases(dtype: torch.dtype, device: str) -> Iterator[tuple[str, Images, list[dict[str, Any]]]]:
    g = torch.Generator().manual_seed(1)
    for kind, case in all_images(dtype, device):
        many = (0.5 * torch.rand(case.adv.shape[0], generator=g)).to(device)
        mask = (torch.rand(case.adv.shape, generator=g) < 0.6).to(device)
        yield kind, case, [
            {"eps": 0.3}, {"eps": 0.5, "bounds": (0.0, 1.0)}, {"eps": many}, {"eps": 0.1, "mask": mask},
            {"eps": many, "mask": mask, "bounds": (0.2, 0.8)},
        ]  # fmt: skip


@functools.cache
def reference(dtype: torch.dtype, device: str) -> list[list[torch.Tensor]]:
    """Once for all backends: it takes as long as half of them."""
    return [
        [ops.project_(case.fresh(kind), case.origin, norm="l1", backend="reference", **options) for options in every]
        for kind, case, every in cases(dtype, device)
    ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_backends_agree_with_the_reference(subject: Subject, dtype):
    if subject.name == "reference":
        pytest.skip("it is what the others are compared with")
    wanted = reference(dtype, subject.device)
    for number, (kind, case, every) in enumerate(cases(dtype, subject.device)):
        pairs = list(zip(every, wanted[number], strict=True))
        for options, want in subject.few(pairs, number + DTYPES.index(dtype), emulated=2):
            got = case.fresh(kind)
            assert ops.project_(got, case.origin, norm="l1", backend=subject.backend, **options) is got
            if dtype is torch.float64:
                assert (got - want).abs().max() < 1e-9, f"{case.label} {options}"
            else:
                assert ulp_distance(got, want) <= 2, f"{case.label} {options}"


def distances(n: int, kind: str, seed: int) -> np.ndarray:
    g = np.random.default_rng(seed)
    if kind == "ties":
        return g.integers(-3, 4, n) * 0.25
    if kind == "cauchy":
        return g.standard_cauchy(n)
    if kind == "sparse":
        return np.where(g.random(n) < 0.05, g.laplace(size=n), 0.0)
    return g.standard_normal(n)


@pytest.mark.parametrize("kind", ["normal", "ties", "cauchy", "sparse"])
def test_without_bounds_it_is_the_sorted_projection(subject: Subject, kind):
    for n in subject.few((1, 2, 7, 300, 2500), 1 if kind == "ties" else 3):
        d = distances(n, kind, n)
        for eps in subject.few((1e-3, 0.7, 20.0, 0.5 * float(np.abs(d).sum())), 1):
            want = duchi(d, eps)
            adv = torch.from_numpy(d)[None].to(subject.device)
            got = project(adv, torch.zeros_like(adv), subject, eps=eps)[0].cpu().numpy()
            assert np.abs(got - want).max() <= 1e-6 * eps, f"{n} {eps}"


@pytest.mark.parametrize("kind", ["normal", "ties", "cauchy", "sparse"])
def test_with_bounds_it_is_the_nearest_point_of_both(subject: Subject, kind):
    for n in subject.few((1, 2, 7, 300, 2500), 1 if kind == "ties" else 3):
        d = distances(n, kind, n)
        origin = np.random.default_rng(n + 1).random(n)
        for eps in subject.few((1e-3, 0.7, 20.0), 1):
            want = bisected(d, -origin, 1 - origin, eps)
            adv, centre = (torch.from_numpy(x)[None].to(subject.device) for x in (origin + d, origin))
            got = (project(adv, centre, subject, eps=eps, bounds=(0.0, 1.0)) - centre)[0].cpu().numpy()
            assert np.abs(got - want).max() <= 1e-6 * eps + 1e-15, f"{n} {eps}"


def test_ball_and_box_are_taken_together(subject: Subject):
    """One after the other ends at (0.1, -0.3): the ball's threshold must know that the box cuts the first entry."""
    origin = torch.tensor([[0.0, -0.7]], dtype=torch.float64, device=subject.device)
    adv = torch.tensor([[2.0, 1.5]], dtype=torch.float64, device=subject.device)
    got = project(adv, origin, subject, eps=0.6, bounds=(-1.0, 0.1))
    assert torch.allclose(got.cpu(), torch.tensor([[0.1, -0.2]], dtype=torch.float64), atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 6), eps=st.floats(0.01, 3), seed=st.integers(0, 9999), bounded=st.booleans())
def test_no_feasible_point_is_nearer(n, eps, seed, bounded):
    g = np.random.default_rng(seed)
    origin, adv = g.random(n), g.random(n) + 2 * g.standard_normal(n)
    bounds = (0.0, 1.0) if bounded else None
    out = ops.project_(torch.from_numpy(adv)[None].clone(), torch.from_numpy(origin)[None], norm="l1", eps=eps,
                       bounds=bounds)[0].numpy()  # fmt: skip
    best = np.linalg.norm(out - adv)
    points = origin + g.laplace(size=(3000, n)) * eps / n
    points[::2] = out + (points[::2] - origin) * 10.0 ** g.uniform(-4, 0, (1500, 1))
    points = np.clip(points, 0, 1) if bounded else points
    points = points[np.abs(points - origin).sum(1) <= eps]
    assert (np.linalg.norm(points - adv, axis=1) >= best * (1 - 1e-6) - 1e-6 * eps).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_inside_stays_to_the_bit_and_twice_is_once(subject: Subject, dtype):
    case = images((2, 3, 9, 11), "contiguous", dtype, subject.device)
    assert torch.equal(project(case.adv, case.origin, subject, eps=1e3), case.adv)
    within = case.adv.clamp(0, 1)
    reach = length(within, case.origin.clamp(0, 1)).to(subject.device)
    assert torch.equal(project(within, case.origin.clamp(0, 1), subject, eps=reach, bounds=(0.0, 1.0)), within)
    for bounds in (None, (0.0, 1.0)):
        once = project(case.adv, case.origin, subject, eps=0.7, bounds=bounds)
        assert not torch.equal(once, case.adv)
        assert torch.equal(once, project(once, case.origin, subject, eps=0.7, bounds=bounds))


def test_masked_pixels_stay_and_do_not_count(subject: Subject):
    case = images((2, 1, 6, 7), "contiguous", torch.float32, subject.device)
    mask = torch.zeros(1, 1, 6, 7, dtype=torch.bool, device=subject.device)
    mask[..., 2:4, :] = True
    adv = case.adv.clone()
    adv[:, :, 0, 0] = float("nan")
    got = project(adv, case.origin, subject, eps=0.05, mask=mask)
    alone = project(adv[:, :, 2:4].contiguous(), case.origin[:, :, 2:4].contiguous(), subject, eps=0.05)
    assert torch.equal(got[:, :, 2:4], alone)
    assert torch.equal(torch.where(mask, 0, got), torch.where(mask, 0, case.origin))
    assert torch.equal(project(adv, case.origin, subject, eps=0.05, mask=mask & False), case.origin)


def test_an_origin_outside_the_bounds(subject: Subject):
    """The nearest point of both sets where they meet; else of the bounds to the origin."""
    origin = torch.tensor([[1.2, 0.5, -0.1]], dtype=torch.float64, device=subject.device)
    adv = torch.tensor([[1.5, 0.9, 0.4]], dtype=torch.float64, device=subject.device)
    for eps in (0.5, 0.35, 1.1):
        d, o = (adv - origin)[0].cpu().numpy(), origin[0].cpu().numpy()
        want = o + bisected(d, -o, 1 - o, eps)
        got = project(adv, origin, subject, eps=eps, bounds=(0.0, 1.0))
        assert np.abs(got[0].cpu().numpy() - want).max() < 1e-6
        assert length(got, origin).item() <= eps
    for eps in (0.0, 0.2):
        got = project(adv, origin, subject, eps=eps, bounds=(0.0, 1.0))
        assert torch.equal(got, origin.clamp(0, 1))


def test_a_radius_of_zero_is_the_origin(subject: Subject):
    case = images((2, 1, 5, 5), "contiguous", torch.float32, subject.device)
    assert torch.equal(project(case.adv, case.origin, subject, eps=0.0), case.origin)


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-4, 1e30, 1e38])
def test_magnitudes_at_the_ends_of_float32(subject: Subject, scale):
    delta = torch.tensor([[3.0, -4.0, 0.0]], dtype=torch.float64) * scale / 5
    origin = torch.zeros(1, 3, device=subject.device)
    adv = project(delta.float().to(subject.device), origin, subject, eps=scale)
    want = torch.tensor([[0.4, -0.6, 0.0]], dtype=torch.float64)
    assert torch.allclose(adv.cpu().double() / scale, want, atol=3e-3 if scale < 1e-37 else 1e-6)
    assert length(adv, origin).item() <= scale


def test_a_nan_or_an_infinity_is_not_hidden(subject: Subject):
    for value in (float("nan"), float("inf")):
        case = images((2, 1, 5, 5), "contiguous", torch.float32, subject.device)
        adv = case.adv.clone()
        adv[1, 0, 2, 2] = value
        for bounds in (None, (0.0, 1.0)):
            got = project(adv, case.origin, subject, eps=0.05, bounds=bounds)
            assert got[1].isnan().all()
            assert not got[0].isnan().any()


def test_heavy_tails_end_inside(subject: Subject):
    """What takes the most rounds: values over twelve decades, cut by a narrow box."""
    n = 400 if subject.slow else 4000
    g = np.random.default_rng(0)
    d = torch.from_numpy(g.pareto(0.5, (2, n)) * g.choice([-1, 1], (2, n))).to(subject.device)
    origin = torch.zeros_like(d)
    got = project(d, origin, subject, eps=1.0, bounds=(-0.02, 0.02))
    assert (length(got, origin) <= 1.0).all()
    assert (length(got, origin) >= 0.98).all()
    assert (got.abs() <= 0.02).all()


def test_the_same_bits_for_any_number_of_threads():
    g = torch.Generator().manual_seed(0)
    origin = torch.rand(1, 3, 300, 301, generator=g)
    adv = origin + 0.1 * torch.randn(origin.shape, generator=g)
    threads = torch.get_num_threads()
    try:
        out = []
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            out.append(ops.project_(adv.clone(), origin, norm="l1", eps=50.0, bounds=(0.0, 1.0), backend="cpu"))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(out[0], out[1])
    assert torch.equal(out[0], out[2])


@settings(max_examples=100, deadline=None)
@given(
    eps=st.floats(0, 30, width=32), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 999),
    scale=st.sampled_from([2.0**-13, 1.0, 200.0]), far=st.sampled_from([1.0, 100.0]), bounded=st.booleans(),
    kind=st.sampled_from(["contiguous", "strided", "channels_last"]),
)  # fmt: skip
def test_always_inside_and_idempotent(eps, dtype, seed, scale, far, bounded, kind):
    case = images((2, 1, 5, 7), "contiguous", dtype, "cpu", seed)
    origin = (case.origin.clamp(0, 1) * scale).to(dtype)
    bounds = (0.0, scale) if bounded else None
    adv = as_format((origin + far * scale * (case.adv - case.origin)).to(dtype), kind)
    ops.project_(adv, origin, norm="l1", eps=eps, bounds=bounds)
    assert length(adv, origin).max().item() <= eps * (1 + 1e-6)
    if bounded:
        assert adv.double().min() >= 0
        assert adv.double().max() <= scale
    assert torch.equal(adv, ops.project_(adv.clone(), origin, norm="l1", eps=eps, bounds=bounds))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_random_start_is_a_projected_point_of_the_cube(subject: Subject, dtype):
    origin = torch.rand(3, 1, 9, 10, generator=torch.Generator().manual_seed(0)).to(subject.device, dtype)
    ids = torch.tensor([7, 2**40, 1], device=subject.device)
    for eps, bounds in ((2.0, None), (torch.tensor([0.5, 3.0, 0.0]).to(subject.device), (0.0, 1.0))):
        options = {"eps": eps, "seed": 5, "sample_ids": ids, "backend": subject.backend}
        got = torch.full_like(origin, float("nan"))
        assert ops.random_start_(got, origin, norm="l1", bounds=bounds, **options) is got
        want = ops.random_start_(torch.empty_like(origin), origin, norm="linf", **options)
        ops.project_(want, origin, norm="l1", eps=eps, bounds=bounds, backend=subject.backend)
        assert torch.equal(got, want)
        radius = torch.as_tensor(eps).double().expand(3).to(subject.device)
        assert (length(got, origin) <= radius * (1 + 1e-6)).all()
        assert (length(got, origin)[:2] >= 0.5 * radius[:2]).all()
