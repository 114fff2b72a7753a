"""The noise with the largest mean radius: against the mean radius that is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import fastattack as fa
from fastattack.certify import Gaussian, optimise_noise

DISTANCE = 0.5


def slab(x: Tensor) -> Tensor:
    """Class 1 in |x_0| < 0.5: too much noise leaves the slab, too little has small radii."""
    inside = DISTANCE - x[:, 0].abs()
    return torch.stack([-inside, inside], 1)


def test_the_chosen_noise_is_where_the_known_mean_radius_is_largest():
    x, labels, n = torch.zeros(8, 2), torch.ones(8, dtype=torch.int64), 2_000
    found = optimise_noise(slab, x, labels, noise=Gaussian(1.0), scales=[0.05, 0.1, 0.2, 0.4, 0.8], n=n)
    assert len(found.trials) == 9
    assert [t.noise.scale for t in found.trials] == sorted(t.noise.scale for t in found.trials)

    def exact(sigma: float) -> float:  # of the bound's expectation, to first order
        p = math.erf(DISTANCE / sigma / math.sqrt(2))
        bound = torch.tensor([min(p, 1.0)], dtype=torch.float64)
        low = fa.certify.lower_bound((bound * n).round(), n, 0.001)
        return float(Gaussian(sigma).radius(low, "l2", 2))

    for trial in found.trials:
        assert trial.average_radius == pytest.approx(exact(trial.noise.scale), abs=0.02)
    best = max((exact(s / 1000), s / 1000) for s in range(50, 800, 5))[1]
    assert abs(math.log(found.noise.scale / best)) < math.log(1.35)
    assert "*" in str(found)
    assert found.radii.shape == (9, 8)
    assert found.per_input.shape == (8,)
    assert found.trials[-1].accuracy == 0  # sigma = 0.8: less than half of the copies are inside
    assert 0 < found.trials[-1].abstained <= 1
    labels[0] = 0
    wrong = optimise_noise(slab, x, labels, noise=Gaussian(1.0), scales=[0.1], rounds=0, n=100)
    assert wrong.per_input.isnan().tolist() == [True] + [False] * 7


def test_its_numbers_are_none_of_a_certificate():
    x = torch.full((1, 2), 0.45)
    labels = torch.ones(1, dtype=torch.int64)
    smoothed = fa.Smoothed(slab, noise=Gaussian(0.3), n=1_000)
    chosen = optimise_noise(slab, x, labels, noise=Gaussian(1.0), scales=[0.3], rounds=0)
    assert float(chosen.radii[0, 0]) != float(smoothed.certify(x).radius()[0])


def test_what_does_not_fit():
    x, labels = torch.zeros(2, 2), torch.ones(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="scales: wanted at least one number > 0, got none"):
        optimise_noise(slab, x, labels, noise=Gaussian(1.0), scales=[])
    with pytest.raises(ValueError, match="scales: wanted a finite number > 0, got -1"):
        optimise_noise(slab, x, labels, noise=Gaussian(1.0), scales=[0.1, -1])
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        optimise_noise(slab, x, labels, noise=Gaussian(1.0), scales=[0.1], sigma=3)
    with pytest.raises(TypeError, match=r"scales: wanted a list of numbers > 0, got float 0\.25"):
        optimise_noise(slab, x, labels, noise=Gaussian(1.0), scales=0.25)  # type: ignore[arg-type]


def test_it_chooses_none_where_nothing_certifies():
    x, labels = torch.zeros(2, 2), torch.ones(2, dtype=torch.int64)
    with pytest.raises(
        ValueError, match=r"scales: wanted a parameter with which .* certified, got none from 0.1 to 0.2"
    ):
        optimise_noise(slab, x, 1 - labels, noise=Gaussian(1.0), scales=[0.1, 0.2], n=100)
    with pytest.raises(ValueError, match="got none from 25 to 25 "):
        optimise_noise(slab, x, labels, noise=Gaussian(1.0), scales=[25], n=100)
    with pytest.raises(ValueError, match=r"labels: wanted class numbers in 0 \.\. 1, got 2 to 2"):
        optimise_noise(slab, x, labels + 1, noise=Gaussian(1.0), scales=[0.1], n=100)
    with pytest.raises(ValueError, match=r"labels: wanted \(2,\) class numbers, got shape \(1,\)"):
        optimise_noise(slab, x, labels[:1], noise=Gaussian(1.0), scales=[0.1], n=100)
