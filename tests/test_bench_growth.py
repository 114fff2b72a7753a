"""How cost grows: the fit against timings with a known exponent, and a machine that slows down meanwhile."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest

from fastattack.bench.growth import fit, grown, growth
from fastattack.bench.timing import Pace, interleaved

XS = (1.0, 2.0, 4.0, 8.0, 16.0)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_a_power_is_found(power: float) -> None:
    exponent, low, high = fit(XS, [[3e-4 * x**power] * 4 for x in XS])
    assert exponent == pytest.approx(power, abs=1e-9)
    assert low == pytest.approx(power, abs=1e-6)
    assert high == pytest.approx(power, abs=1e-6)


def test_the_interval_is_students() -> None:
    """Three points at ln x = -1, 0, 1 and ln s = 0, 1, 0: slope 0, residuals -1/3, 2/3, -1/3, one degree of freedom."""
    exponent, low, high = fit([math.exp(k) for k in (-1, 0, 1)], [[1.0], [math.e], [1.0]])
    error = math.sqrt((1 / 9 + 4 / 9 + 1 / 9) / 1 / 2)
    assert exponent == pytest.approx(0, abs=1e-12)
    assert high == pytest.approx(12.706 * error)
    assert low == pytest.approx(-12.706 * error)


def test_a_round_with_bad_luck_does_not_count() -> None:
    seconds = [[x, x, x, x, 100 * x if x == 4 else x, x] for x in XS]
    assert fit(XS, seconds)[0] == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("count", [1, 2, 11])
def test_too_few_or_many_sizes(count: int) -> None:
    with pytest.raises(ValueError, match=f"xs: wanted 3 to 10 sizes, got {count}"):
        fit([2.0**k for k in range(count)], [[1.0]] * count)


class Drifting(Pace):
    """A clock that only calls move on, on a machine that becomes slower with every second of it."""

    slower = 0.0
    now = 0.0

    @property
    def clock(self) -> Callable[[], float]:
        return lambda: Drifting.now

    def work(self, seconds: float) -> Callable[[], None]:
        def call() -> None:
            Drifting.now += seconds * (1 + self.slower * Drifting.now)

        return call


@pytest.mark.parametrize("slower", [0.0, 8.0])
def test_a_machine_that_slows_down_is_not_growth(slower: float) -> None:
    pace = Drifting(rounds=6, least=0.005)
    Drifting.slower, Drifting.now = slower, 0.0
    found = grown("work", "size", "", {x: pace.work(1e-4 * x) for x in XS}, pace)
    assert found.exponent == pytest.approx(1, abs=0.02)
    assert found.low <= found.exponent <= found.high
    assert found.xs == XS
    assert all(len(rounds) == 6 for rounds in found.seconds)
    Drifting.now = 0.0  # each size by itself, one after the other: what would be seen without taking turns
    blocks = [interleaved({"": pace.work(1e-4 * x)}, pace)[""] for x in XS]
    assert (abs(fit(XS, blocks)[0] - 1) > 0.1) == (slower > 0)


def test_all_that_grows_is_measured() -> None:
    found = growth(device="cpu", quick=True)
    names = {(one.what, one.along) for one in found}
    ops = ("pgd_step_ linf", "pgd_step_ l2", "noise_stats", "copy and preserve_noise_ linf", "typical_noise")
    wanted = {(op, along) for op in ops for along in ("pixels", "batch")}
    wanted |= {("PGD", along) for along in ("pixels", "batch", "steps")}
    assert names == wanted | {("attack_each, in turns", "models"), ("transfer_matrix", "models")}
    assert all(s > 0 for one in found for rounds in one.seconds for s in rounds)
    read = json.loads(json.dumps([one.as_dict() for one in found], allow_nan=False))
    assert [tuple(one["x"]) for one in read] == [one.xs for one in found]
    assert all(len(one["x"]) == len(one["seconds"]) and one["low"] <= one["exponent"] <= one["high"] for one in read)
    assert len({one["what"] for one in read}) == len(read)
