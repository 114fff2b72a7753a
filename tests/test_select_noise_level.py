"""fa.select_noise_level and the Fréchet distance against closed forms of Gaussians and torchmetrics."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastattack as fa
from fastattack.defenses import frechet_distance
from fastattack.defenses.frechet import between, jackknife_error, shape_of
from fastattack.diffusion import Diffusion
from tests.test_purifier import SCHEDULE, chain, gaussian

WIDTH = 4  # pixels of an image, and features


def normals(count: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact(features: Tensor) -> Tensor:
    """The same samples moved so that their mean is 0 and their covariance the identity."""
    centred = features - features.mean(0)
    root = torch.linalg.cholesky(centred.T @ centred / (len(centred) - 1))
    return torch.linalg.solve_triangular(root, centred.T, upper=False).T


# -- the distance ------------------------------------------------------------------------------------------------------


def test_gaussians_have_the_closed_form() -> None:
    """Covariances that commute: |m|^2 + sum (sqrt l_a - sqrt l_b)^2; two that do not, by NumPy's eigenvalues in 2-D."""
    a, b = exact(normals(60, 5)), exact(normals(90, 5, seed=1))
    turn = torch.linalg.qr(normals(5, 5, seed=2))[0]
    left, right = torch.tensor([0.0, 1e-3, 0.5, 2.0, 7.0]).double(), torch.tensor([0.3, 1e-9, 0.5, 0.1, 30.0]).double()
    move = torch.tensor([0.2, 0.0, -1.0, 3.0, 0.0]).double()
    found = frechet_distance(a * left @ turn, (b * right + move) @ turn)
    assert found == pytest.approx(float((move.square() + (left - right).square()).sum()), rel=1e-12)
    s, t = np.array([[2.0, 0.6], [0.6, 1.0]]), np.array([[0.5, -0.4], [-0.4, 3.0]])
    p, q = (exact(normals(30, 2, seed=k)) @ torch.from_numpy(np.linalg.cholesky(m)).T for k, m in ((3, s), (4, t)))
    # of a 2 x 2 matrix M with eigenvalues >= 0: tr M^(1/2) = sqrt(tr M + 2 sqrt(det M))
    common = math.sqrt(np.trace(s @ t) + 2 * math.sqrt(np.linalg.det(s @ t)))
    assert frechet_distance(p, q + 0.5) == pytest.approx(0.5 + np.trace(s) + np.trace(t) - 2 * common, rel=1e-12)


def test_a_set_is_nowhere_from_itself_and_close_sets_keep_their_digits() -> None:
    """64 features of rank 6: a root of the product of the covariances gives -3e-5 for both of these."""
    a = exact(normals(200, 6)) @ normals(6, 64, seed=4)
    assert frechet_distance(a, a) < 1e-10
    assert frechet_distance(a, a + 1e-4) == pytest.approx(64e-8, rel=1e-4)


def test_torchmetrics_has_the_same_distance() -> None:
    image = pytest.importorskip("torchmetrics.image.fid")

    class Given(nn.Module):
        num_features = 5

        def forward(self, x: Tensor) -> Tensor:
            return x

    metric = image.FrechetInceptionDistance(feature=Given())
    a, b = normals(40, 5), 0.3 + normals(70, 5, seed=1) @ normals(5, 5, seed=2)
    metric.update(a, real=True)
    metric.update(b, real=False)
    assert frechet_distance(a, b) == pytest.approx(float(metric.compute()), rel=1e-9)


def test_shrinkage_moves_covariances_towards_the_identity() -> None:
    a, b = exact(normals(40, 3)), exact(normals(40, 3, seed=1)) * torch.tensor([0.1, 1.0, 2.0], dtype=torch.float64)
    of = 0.75 * np.array([0.01, 1.0, 4.0]) + 0.25 * 5.01 / 3  # shrunk variances
    assert frechet_distance(a, b, shrinkage=0.25) == pytest.approx(np.square(np.sqrt(of) - 1).sum(), rel=1e-12)
    few = normals(3, 8)
    assert math.isfinite(frechet_distance(few, few + 1, shrinkage=0.5))
    assert frechet_distance(few, few + 1, shrinkage=0.5) == pytest.approx(8)


def test_the_error_is_the_spread_over_repetitions() -> None:
    """The jackknife's mean error beside the standard deviation of 60 independent repetitions."""
    values, errors = [], []
    for k in range(60):
        a, b = normals(80, 3, seed=2 * k), 0.7 + 1.3 * normals(80, 3, seed=2 * k + 1)
        group = torch.arange(80) % 10
        kept = [group < 10, *(group != g for g in range(10))]
        found = torch.tensor([between(shape_of(a[k]), shape_of(b[k])) for k in kept], dtype=torch.float64)
        values.append(found[0])
        errors.append(jackknife_error(found[1:]).square())
    spread = float(torch.stack(values).std())
    assert float(torch.stack(errors).mean().sqrt()) == pytest.approx(spread, rel=0.3)


# -- the level ---------------------------------------------------------------------------------------------------------


class Task(nn.Module):
    """A classifier whose last layer sees twice the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Flatten()
        self.norm = nn.BatchNorm1d(WIDTH, affine=False)
        self.last = nn.Linear(WIDTH, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(2 * self.first(x) + 0 * self.norm(self.first(x)))


LEVELS = [0, 10, 20, 30, 40, 60, 90, 130, 200]
WIDE = 1.5  # standard deviation of the images, more than the 0.5 that the diffusion model believes in
OFFSETS = {"weak": 0.3, "strong": -0.6}


def data(count: int = 2000) -> tuple[Tensor, dict[str, Tensor]]:
    other = WIDE * normals(count, 1, 2, 2, seed=1)
    return WIDE * normals(count, 1, 2, 2), {name: other + offset for name, offset in OFFSETS.items()}


def expected(path: tuple[int, ...], offset: float, sampler: str) -> float:
    """Of images N(offset, WIDE^2) after a chain of affine Gaussian steps, in features of twice the pixels."""
    factor, variance = chain(list(path), sampler == "ddpm")
    spread = math.sqrt(factor**2 * WIDE**2 + variance)
    return 4 * WIDTH * ((factor * offset) ** 2 + (spread - WIDE) ** 2)


@pytest.mark.parametrize(("sampler", "combine"), [("ddim", "mean"), ("ddpm", "mean"), ("ddim", "worst")])
def test_the_level_is_the_best_one_of_a_gaussian_world(sampler: str, combine: str) -> None:
    clean, attacked = data()
    over = {"mean": np.mean, "worst": np.max}[combine]
    purifier = fa.Purifier(gaussian(), t_star=12, steps=12, sampler=sampler, seed=3)
    found = fa.select_noise_level(purifier, Task(), clean, attacked, LEVELS, combine=combine)
    paths = [purifier.replaced(t_star=n, steps=min(n, 12) or None).process.levels for n in LEVELS]
    right = np.array([[expected(path, offset, sampler) for path in paths] for offset in OFFSETS.values()])
    best = int(over(right, axis=0).argmin())
    assert 0 < best < len(LEVELS) - 1  # too little leaves the attack, too much takes the image away
    assert found.t_star == LEVELS[best]
    assert found.combined.tolist() == pytest.approx(over(found.distances.numpy(), axis=0).tolist())
    gap = (found.distances.numpy() - right) / found.errors.numpy()
    assert np.abs(gap).max() < 4
    assert np.abs(gap).min(axis=1).max() > 1e-6  # random, and not the closed form itself
    assert found.unpurified.tolist() == pytest.approx(found.distances[:, 0].tolist(), rel=1e-12)  # level 0 does nothing
    assert found.t_star in found.alike
    assert float(found.gap_errors[best]) == 0
    assert found.sigma == pytest.approx(SCHEDULE.sigma(found.t_star))
    assert (found.attacks, found.levels, found.images, found.features) == (("weak", "strong"), tuple(LEVELS), 2000, 4)
    lines = str(found).splitlines()
    assert len(lines) >= 4 + len(LEVELS)
    assert [line.split()[0] for line in lines if line.endswith("<- chosen")] == [str(found.t_star)]


def test_features_by_name_function_and_place() -> None:
    """Batches change nothing, the task model is as it was, and maps are averaged over their pixels."""
    clean, attacked = data(40)
    purifier, task = fa.Purifier(gaussian(), t_star=40, steps=25, sampler="ddim"), Task().train()
    before = {k: v.clone() for k, v in task.state_dict().items()}

    def chosen(features: Any, model: Any = task, **options: Any) -> fa.NoiseLevels:
        return fa.select_noise_level(purifier, model, clean, attacked["weak"], [20, 40], features=features, **options)

    whole = chosen(None)
    torch.testing.assert_close(chosen(None, max_batch=7).distances, whole.distances, rtol=1e-10, atol=0)
    torch.testing.assert_close(chosen("first").distances * 4, whole.distances, rtol=1e-10, atol=0)
    torch.testing.assert_close(chosen(lambda x: 2 * x.flatten(1), lambda x: x).distances, whole.distances)
    assert whole.attacks == ("attacked",)
    assert task.training
    assert all(torch.equal(v, before[k]) for k, v in task.state_dict().items())
    segments = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1)).double()
    maps = chosen(None, segments)
    means = chosen(lambda x: segments[:2](x).mean((2, 3)), segments)
    assert maps.features == 3
    torch.testing.assert_close(maps.distances, means.distances)


def test_levels_by_their_noise() -> None:
    clean, attacked = data(40)
    sigmas = [SCHEDULE.sigma(n) for n in (40, 20)]
    found = fa.select_noise_level(fa.Purifier(gaussian(), t_star=1), Task(), clean, attacked, sigmas, by="sigma")
    assert found.levels == (20, 40)
    assert found.sigmas == pytest.approx(sigmas[::-1])


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"clean": data(4)[0]},
            "clean: wanted at least 5 images for a Fréchet distance of 4 features, got 4; shrinkage",
        ),
        (
            {"attacked": {"pgd": data(4)[0]}},
            "pgd: wanted at least 5 images for a Fréchet distance of 4 features, got 4",
        ),
        ({"clean": data(3)[0], "shrinkage": 0.5}, "clean: wanted at least 4 images, got 3"),
        ({"attacked": torch.zeros(9, 3, 2, 2)}, r"attacked: x: wanted images \(B, 1, H, W\) as the diffusion model"),
        (
            {"attacked": torch.zeros(9, 1, 2, 3)},
            r"attacked: wanted images \(1, 2, 2\) as the clean ones, got \(1, 2, 3\)",
        ),
        ({"attacked": {}}, "attacked: wanted the images of one attack"),
        ({"clean": torch.full((9, 1, 2, 2), math.nan)}, "clean: wanted finite numbers, got NaN"),
        ({"levels": [10, 201]}, r"t_star: wanted a level from 0 \(no noise\) to 200, .* got 201"),
        ({"levels": [99.0], "by": "sigma"}, "sigma: wanted a noise level from 0 to"),
        ({"levels": []}, "levels: wanted a list of one level at least"),
        ({"levels": [5, 9, 5]}, r"levels: wanted different levels, got t\* = 5 twice"),
        ({"by": "level"}, "by: wanted one of 't_star', 'sigma', got 'level'"),
        ({"combine": "max"}, "combine: wanted one of 'mean', 'worst', got 'max'"),
        ({"shrinkage": 2.0}, r"shrinkage: wanted a share in \[0, 1\], got 2.0"),
        (
            {"features": "nowhere"},
            "features: wanted a layer of the task model, such as 'first', 'norm', 'last', got 'nowhere'",
        ),
        ({"task_model": nn.Flatten()}, "features: wanted a layer's name or a function: the task model has no linear"),
        ({"features": lambda x: x[:1]}, "features: wanted"),
    ],
)
def test_what_does_not_fit(changed: dict[str, Any], message: str) -> None:
    clean, attacked = data(9)
    options = {"task_model": Task(), "clean": clean, "attacked": attacked, "levels": [5]} | changed
    with pytest.raises(ValueError, match=message):
        fa.select_noise_level(fa.Purifier(gaussian(), t_star=1), **options)


def test_types_that_do_not_fit() -> None:
    clean, attacked = data(9)
    with pytest.raises(TypeError, match=r"purifier: wanted a fastattack\.Purifier, got str"):
        fa.select_noise_level("embedded", Task(), clean, attacked, [5])  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"features: wanted a function of images for a task model that is no nn\.Module"
    ):
        fa.select_noise_level(fa.Purifier(gaussian(), t_star=1), lambda x: x, clean, attacked, [5])


def test_nan_is_named() -> None:
    clean, attacked = data(9)

    def breaks(x: Tensor, t: Tensor) -> Tensor:
        return x * (math.nan if int(t[0]) == 3 else 1.0)

    purifier = fa.Purifier(Diffusion(breaks, SCHEDULE, channels=1), t_star=1)
    with pytest.raises(fa.NonFiniteError, match=r"reverse step 2 of 5 \(level 4 to 3\)"):
        fa.select_noise_level(purifier, Task(), clean, attacked, [3, 5])
    with pytest.raises(fa.NonFiniteError, match="features: NaN or infinity for clean, 0 of a batch of 9"):
        fa.select_noise_level(purifier, Task(), clean, attacked, [3], features=lambda x: x.flatten(1) / 0.0)
