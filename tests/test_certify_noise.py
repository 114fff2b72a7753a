"""Noise and radii: draws by their distribution, closed forms by definition in float64, tables by closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from fastattack.certify import Gaussian, Laplace, LogConcave, Noise, Uniform, numeric_radius
from fastattack.certify.copies import Copies, seed_of_stage
from fastattack.certify.ratio import ratio_table

P = torch.tensor([0.501, 0.6, 0.9, 0.99, 0.9999], dtype=torch.float64)


def cubic(z: Tensor) -> Tensor:
    return z.abs() ** 3


def drawn(noise: Noise, n: int = 20_000, shape: tuple[int, ...] = (1, 2, 5)) -> Tensor:
    x = torch.zeros(1, *shape)
    copies = Copies(noise, x, torch.tensor([5]), n, seed_of_stage(1, 0))
    return copies.write(torch.empty(n, *shape), 0)


NOISES = [
    (Gaussian(0.3), stats.norm(scale=0.3)),
    (Laplace(0.2), stats.laplace(scale=0.2)),
    (Uniform(0.4), stats.uniform(-0.4, 0.8)),
    (LogConcave(cubic, width=0.5), stats.gennorm(3, scale=0.5)),
    (LogConcave(torch.abs, width=0.2, inverse=Laplace(1.0).quantile), stats.laplace(scale=0.2)),
]


@pytest.mark.parametrize(("noise", "law"), NOISES, ids=lambda v: type(v).__name__)
def test_draws_have_the_density(noise: Noise, law: stats.rv_continuous):
    z = drawn(noise).double().flatten().numpy()
    assert stats.kstest(z, law.cdf).pvalue > 1e-4
    assert z.std() == pytest.approx(law.std(), rel=0.02)
    u = torch.tensor([1e-6, 0.2, 0.5, 0.77, 0.999], dtype=torch.float64)
    np.testing.assert_allclose(noise.quantile(u).numpy(), law.ppf(u.numpy()), rtol=1e-6, atol=1e-9)
    at = torch.tensor([0.0, 0.1, -0.25], dtype=torch.float64)
    heights = (noise.potential(at) - noise.potential(at[:1])).numpy()
    np.testing.assert_allclose(np.exp(-heights), law.pdf(at.numpy()) / law.pdf(0), rtol=1e-9)


def test_copies_follow_from_their_names_alone():
    x = torch.rand(3, 1, 6, 7)
    ids = torch.tensor([7, 0, 2**31 - 1])
    whole = Copies(Gaussian(0.5), x, ids, 10, 3)
    every = whole.write(torch.empty(30, 1, 6, 7), 0)
    assert torch.equal(whole.write(torch.empty(13, 1, 6, 7), 8), every[8:21])
    alone = Copies(Gaussian(0.5), x[1:2], ids[1:2], 4, 3)
    assert torch.equal(alone.write(torch.empty(4, 1, 6, 7), 0), every[10:14])
    noise = every - x.repeat_interleave(10, 0)
    assert len({round(float(n[0, 0, 0]), 6) for n in noise}) == 30
    assert abs(float(torch.corrcoef(noise.flatten(1)).fill_diagonal_(0).abs().max())) < 0.7
    half = Copies(Laplace(0.5), x.half(), ids, 2, 3).write(torch.empty(6, 1, 6, 7, dtype=torch.float16), 0)
    assert half.isfinite().all()


def test_stages_and_draws_have_seeds_of_their_own():
    seeds = {seed_of_stage(s, stage, draw) for s in (0, 1) for stage in range(6) for draw in (0, 1, 2**62)}
    assert len(seeds) == 36
    assert not seeds & {0, 1}  # those of plain noise with the same seed


# -- closed forms ------------------------------------------------------------------------------------------------------


def test_gaussian_radius_is_cohen_s():
    found = Gaussian(0.25).radius(P, "l2", 3072).numpy()
    np.testing.assert_allclose(found, 0.25 * stats.norm.ppf(P.numpy()), rtol=1e-9)
    np.testing.assert_allclose(Gaussian(0.25).radius(P, "linf", 3072).numpy(), found / math.sqrt(3072), rtol=1e-12)
    np.testing.assert_allclose(Gaussian(0.25).radius(P, "l1", 3072).numpy(), found, rtol=1e-12)
    # Cohen et al., page 5: sigma = 0.5, n = 10,000 of which all agree, alpha = 0.001: 0.5 ndtri(0.001^(1/n)) = 1.6
    p = torch.tensor([0.001 ** (1 / 10_000)], dtype=torch.float64)
    assert float(Gaussian(0.5).radius(p, "l2", 10)) == pytest.approx(0.5 * 3.199, abs=1e-3)


def worst_of_half_lines(law: stats.rv_continuous, p: float) -> float:
    """The shift of one number at which the worst half line {z <= c} of probability p keeps 1/2, by bisection."""
    cut, low, high = law.ppf(p), 0.0, 50.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if law.cdf(cut - middle) > 0.5 else (low, middle)
    return low


@pytest.mark.parametrize(
    ("noise", "law"), [(Laplace(0.3), stats.laplace(scale=0.3)), (Uniform(0.7), stats.uniform(-0.7, 1.4))]
)
def test_l1_radii_are_those_of_the_worst_half_line_along_an_axis(noise: Noise, law: stats.rv_continuous):
    wanted = [worst_of_half_lines(law, float(p)) for p in P]
    np.testing.assert_allclose(noise.radius(P, "l1", 12).numpy(), wanted, rtol=1e-7)


def test_the_linf_radius_of_uniform_noise_is_where_the_cubes_overlap_enough():
    dim, w = 30, 0.5
    radius = Uniform(w).radius(P, "linf", dim)
    overlap = (1 - radius / (2 * w)) ** dim
    np.testing.assert_allclose((P - (1 - overlap)).numpy(), 0.5, atol=1e-9)


@pytest.mark.parametrize("noise", [Gaussian(0.3), Laplace(0.3), Uniform(0.3)])
def test_no_radius_at_one_half_and_none_lost_between_norms(noise: Noise):
    assert noise.radius(torch.tensor([0.0, 0.5], dtype=torch.float64), "l2", 9).tolist() == [0, 0]
    l1, l2, linf = (noise.radius(P, norm, 9) for norm in ("l1", "l2", "linf"))
    assert (l1 >= l2).all()
    assert (l2 >= linf).all()
    assert (linf >= l2 / 3 - 1e-12).all()
    assert torch.equal(noise.radius(P, 2.0, 9), l2)
    assert (noise.radius(P, 3, 9) <= l2).all()


# -- tables ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [Gaussian(0.5), Uniform(0.5)])
def test_numeric_linf_radii_are_just_below_the_closed_form(noise: Noise):
    p = torch.tensor([0.8, 0.95, 0.99], dtype=torch.float64)
    found = numeric_radius(noise, p, norm="linf", dim=12, samples=20_000)
    exact = noise.radius(p, "linf", 12)
    assert (found.proven <= exact).all()
    assert (found.proven >= 0.75 * exact).all()
    np.testing.assert_allclose(found.estimate.numpy(), exact.numpy(), rtol=0.08)


def test_numeric_linf_radii_of_laplace_noise_hold_for_the_corner_by_simulation():
    """At the corner of the ball the set that loses most, by its own count of other samples, keeps more than half."""
    noise, dim, p = Laplace(0.5), 8, 0.9
    radius = float(numeric_radius(noise, torch.tensor([p]), norm="linf", dim=dim, samples=20_000).proven)
    assert radius > float(noise.radius(torch.tensor([p]), "linf", dim))  # conversion from l1 proves less
    z = np.random.default_rng(0).laplace(scale=0.5, size=(200_000, dim))

    def ratio(y: np.ndarray) -> np.ndarray:
        return (np.abs(y) - np.abs(y - radius)).sum(1) / 0.5

    cut = np.quantile(ratio(z), p)
    kept = (ratio(z + radius) <= cut).mean()
    assert 0.5 < kept < 0.56


def test_along_an_axis_the_table_is_the_closed_form_of_l1():
    for noise in (Laplace(0.5), Gaussian(0.5), Uniform(0.5)):
        table = ratio_table(noise, torch.ones(1), samples=20_000, failure=1e-3, seed=1)
        exact = noise.radius(torch.tensor([0.9], dtype=torch.float64), "l1", 1)
        assert 0.85 * exact < table.radius(torch.tensor([0.9])) <= exact
        assert float(table.radius(torch.tensor([0.9]), bounded=False)) == pytest.approx(float(exact), rel=0.08)


def test_a_table_fails_as_seldom_as_it_says():
    """With a failure probability of 0.05 for each table: few of 10 tables prove too much anywhere."""
    wrong, wrong_guesses = 0, 0
    for seed in range(10):
        table = ratio_table(Gaussian(1.0), torch.ones(1), samples=500, failure=0.05, seed=seed)
        exact = torch.special.ndtr(table.radii)
        wrong += bool((table.needed < exact).any())
        wrong_guesses += bool((table.likely < exact).any())
    assert wrong <= 3  # Binomial(10, 0.05): one in 1,000 beyond
    assert wrong_guesses >= 7


def test_other_norms_say_that_they_are_estimates():
    p = torch.tensor([0.9], dtype=torch.float64)
    found = numeric_radius(Gaussian(0.5), p, norm="l2", dim=4, samples=2_000, random_directions=1)
    exact = float(Gaussian(0.5).radius(p, "l2", 4))
    assert float(found.estimate) == pytest.approx(exact, rel=0.15)
    assert float(found.proven) < exact / 1.5  # linf's
    assert len(found.directions) == 4
    assert found.worst in found.directions
    own = LogConcave(cubic, width=0.5, samples=5_000)
    assert torch.equal(own.radius(p, "l2", 4), own.radius(p, "linf", 4))  # what is proven


@pytest.mark.parametrize(
    ("phi", "words"),
    [
        (lambda z: z.abs().sqrt(), "log-concave density, that is a convex potential"),
        (lambda z: 2 * torch.log1p(z * z / 3), "log-concave density, that is a convex potential"),
        (lambda z: torch.log1p(z * z), "grows at least as a line"),
        (lambda z: z * 0, "grows at least as a line"),
        (lambda z: z**2 + z, "phi: wanted an even potential"),
        (lambda z: z.sum(), "phi: wanted one number for each number"),
        (lambda z: z * math.nan, "phi: wanted numbers above minus infinity"),
    ],
)
def test_a_density_that_is_not_log_concave_is_refused(phi, words: str):
    with pytest.raises(ValueError, match=words):
        LogConcave(phi)


def test_what_else_is_refused():
    with pytest.raises(ValueError, match="inverse: wanted the one of the density"):
        LogConcave(torch.abs, inverse=Gaussian(1.0).quantile)
    exact = Laplace(1.0).quantile
    for near in (
        lambda u: exact(u) * (1 + 1e-4),
        lambda u: (exact(u) * 500).round() / 500,  # atoms
        lambda u: exact(u).clamp(-9, 9),  # atoms far out: 6e-5 in each
    ):
        with pytest.raises(ValueError, match="inverse: wanted the one of the density"):
            LogConcave(torch.abs, inverse=near)
    for make in (Gaussian, Laplace, Uniform):
        with pytest.raises(ValueError, match="wanted a finite number > 0, got 0"):
            make(0)
    with pytest.raises(ValueError, match="norm: wanted 'l1', 'l2', 'linf' or a number p >= 1, got 'l3'"):
        Gaussian(1.0).radius(P, "l3", 4)
    with pytest.raises(TypeError, match=r"noise: wanted fa\.certify\.Gaussian"):
        numeric_radius(0.5, P, norm="l2", dim=4)  # type: ignore[arg-type]
