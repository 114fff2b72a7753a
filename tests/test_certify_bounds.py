"""Binomial bounds and order statistics: their definition in exact arithmetic, and as often wrong as they say."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from fastattack.certify import bounds


def tail(n: int, p: Fraction, k: int) -> Fraction:
    """P(Binomial(n, p) >= k), exactly."""
    return sum((Fraction(math.comb(n, j)) * p**j * (1 - p) ** (n - j) for j in range(k, n + 1)), Fraction(0))


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.3])
@pytest.mark.parametrize("n", [1, 7, 40])
def test_bounds_are_where_the_tail_is_alpha(n: int, alpha: float):
    k = torch.arange(n + 1)
    low, high = bounds.lower_bound(k, n, alpha), bounds.upper_bound(k, n, alpha)
    assert low.dtype == torch.float64
    assert (low[0], high[-1]) == (0, 1)
    for count in range(1, n + 1):
        assert float(tail(n, Fraction(float(low[count])), count)) == pytest.approx(alpha, rel=1e-8)
    for count in range(n):
        assert float(1 - tail(n, Fraction(float(high[count])), count + 1)) == pytest.approx(alpha, rel=1e-8)


def test_the_test_of_even_odds_is_two_sided_and_exact():
    for a, b in [(10, 0), (7, 3), (5, 5), (11, 2), (0, 0)]:
        wanted = min(Fraction(1), 2 * tail(a + b, Fraction(1, 2), a))
        assert float(bounds.even_odds(torch.tensor([a]), torch.tensor([b]))[0]) == pytest.approx(float(wanted))


@pytest.mark.parametrize("alpha", [0.5, 0.25, 0.1, 0.05, 0.001, 1e-7])
def test_the_least_numbers_of_copies(alpha: float):
    n = bounds.least_n(alpha)
    assert float(bounds.lower_bound(torch.tensor([n]), n, alpha)[0]) > 0.5
    assert n == 1 or float(bounds.lower_bound(torch.tensor([n - 1]), n - 1, alpha)[0]) <= 0.5
    n = bounds.least_n_of_test(alpha)
    passes = [float(bounds.even_odds(torch.tensor([k]), torch.tensor([0]))[0]) <= alpha for k in (n - 1, n)]
    assert passes == [False, True]


@pytest.mark.parametrize("level", [0.05, 0.31, 0.5, 0.97])
@pytest.mark.parametrize("n", [5, 100])
def test_order_statistics_lie_beyond_the_quantile_as_often_as_they_say(n: int, level: float):
    alpha, p = 0.01, Fraction(level)
    low, high = bounds.order_below(n, level, alpha), bounds.order_above(n, level, alpha)
    # X_(k) <= quantile where at least k of n values are below it, each with probability `level`
    if low:
        assert tail(n, p, low) >= 1 - alpha
    assert tail(n, p, low + 1) < 1 - alpha
    # X_(k) >= quantile where fewer than k are
    if high <= n:
        assert 1 - tail(n, p, high) >= 1 - alpha
    assert high == 1 or 1 - tail(n, p, high - 1) < 1 - alpha


@pytest.mark.parametrize("p", [0.3, 0.55, 0.9, 0.999])
@pytest.mark.parametrize(("n", "alpha"), [(100, 0.05), (1000, 0.01)])
def test_coverage_over_ten_thousand_trials(n: int, alpha: float, p: float):
    trials = 10_000
    drawn = torch.from_numpy(np.random.default_rng(0).binomial(n, p, trials))
    wrong = int((bounds.lower_bound(drawn, n, alpha) > p).sum())
    wrong_above = int((bounds.upper_bound(drawn, n, alpha) < p).sum())
    most = trials * alpha + 4 * math.sqrt(trials * alpha)  # one in 30,000 goes beyond by chance
    assert wrong <= most
    assert wrong_above <= most
    if n * (1 - p) > 20:  # where the binomial is fine enough the bound is not idle
        assert wrong >= trials * alpha / 3


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match=r"n: wanted at least 10 copies for a failure probability of 0.001, got 9"):
        bounds.require_n(9, 0.001, bounds.least_n(0.001))
    with pytest.raises(ValueError, match=r"alpha: wanted a number in \(0, 1\), got 1"):
        bounds.share(1, "alpha")
