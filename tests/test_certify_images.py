"""Median and centre smoothing: models whose quantiles are known, and attacks that stay within what was certified."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import fastattack as fa
from fastattack.certify import centre_smoothing, median_smoothing

SIGMA = 0.1


def images(count: int = 2, side: int = 8) -> Tensor:
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(3))


def contrast(x: Tensor) -> Tensor:
    """Each pixel by itself: its median is contrast of the pixel, its quantiles those of the normal."""
    return 0.8 * x + 0.1


class Sharpen(nn.Module):
    """A smooth nonlinear filter with a reach of one pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
        self.conv.weight.data = torch.tensor([[[[0.0, -0.5, 0.0], [-0.5, 3.0, -0.5], [0.0, -0.5, 0.0]]]])

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.conv(x))


# -- median smoothing --------------------------------------------------------------------------------------------------


def test_bounds_hold_the_known_quantiles_and_are_not_idle():
    x, radii, n = images(), [0.02, 0.1], 4_000
    found = median_smoothing(contrast, x, sigma=SIGMA, eps=radii, n=n, alpha=0.01)
    assert found.low.shape == found.high.shape == (2, 2, 1, 8, 8)
    middle = contrast(x.double())
    for k, eps in enumerate(radii):
        low, high = middle - 0.8 * eps, middle + 0.8 * eps  # the quantiles ndtr(-+eps / sigma)
        assert (found.low[k] <= low).all()
        assert (found.high[k] >= high).all()
        assert (found.high[k] - found.low[k] <= 1.6 * eps + 0.025).all()
    torch.testing.assert_close(found.median.double(), middle, atol=5 * 0.8 * SIGMA * 1.26 / math.sqrt(n), rtol=0)
    assert torch.equal(found.deviation, torch.maximum(found.high - found.median, found.median - found.low))
    assert torch.allclose(found.rms[0, 1], found.deviation[0, 1].double().square().mean().sqrt())


def test_bounds_of_single_pixels_fail_as_often_as_they_say():
    x, eps, alpha = images(4, 16), 0.05, 0.2
    found = median_smoothing(contrast, x, sigma=SIGMA, eps=eps, n=300, alpha=alpha, simultaneous=False)
    middle = contrast(x.double())
    wrong = int((found.low[0] > middle - 0.8 * eps).sum() + (found.high[0] < middle + 0.8 * eps).sum())
    pixels = x.numel()
    assert pixels * alpha / 2 <= wrong <= pixels * alpha + 4 * math.sqrt(pixels * alpha)


def test_order_statistics_are_those_of_numpy():
    x = images(1, 4)
    seen: list[Tensor] = []

    def model(v: Tensor) -> Tensor:
        seen.append(v.clone())
        return v

    found = median_smoothing(model, x, sigma=SIGMA, eps=0.05, n=500, alpha=0.01, max_batch=77)
    values = np.sort(torch.cat(seen).numpy(), 0)
    np.testing.assert_array_equal(found.median[0].numpy(), np.median(values, 0))
    each = 0.01 / (2 * 16)
    level = stats.norm.cdf(-0.5)
    rank = max(k for k in range(501) if stats.binom.sf(k - 1, 500, level) >= 1 - each)
    np.testing.assert_array_equal(found.low[0, 0].numpy(), values[rank - 1])
    np.testing.assert_array_equal(found.high[0, 0].numpy(), values[500 - rank])


def test_an_attack_moves_no_median_out_of_its_bounds():
    model, x, eps = Sharpen(), images(), 0.2
    found = median_smoothing(model, x, sigma=SIGMA, eps=eps, n=1_000)
    attack = fa.PGD(model, norm="l2", eps=eps, steps=10, view=fa.views.Noise(std=SIGMA), eot=4)
    moved = attack(x, model(x).detach())
    assert (moved - x).flatten(1).norm(dim=1).min() > 0.19
    there = median_smoothing(model, moved, sigma=SIGMA, eps=eps, n=4_000, seed=5).median
    assert (there >= found.low[0]).all()
    assert (there <= found.high[0]).all()
    assert (there - found.median).abs().max() > 0.05  # it did move
    clean = images()
    psnr = -10 * (there - clean).flatten(1).square().mean(1).log10()
    assert (psnr >= found.worst_psnr(clean)[0]).all()


# -- centre smoothing --------------------------------------------------------------------------------------------------


def test_the_ball_holds_the_needed_share_by_the_noncentral_chi_distribution():
    x, eps, m, n, alpha = images(3, 4), 0.03, 101, 4_000, 0.01
    found = centre_smoothing(contrast, x, sigma=SIGMA, eps=eps, m=m, n=n, alpha=alpha)
    spread = 0.8 * SIGMA
    more = m // 2 + 1
    q = stats.beta.ppf(1 - alpha, more, m - more + 1)
    assert stats.binom.sf(more - 1, m, q) == pytest.approx(1 - alpha)
    level = stats.norm.cdf(stats.norm.ppf(q) + eps / SIGMA)
    for k in range(3):
        off = float((contrast(x[k].double()) - found.centre[k].double()).square().sum()) / spread**2
        exact = spread * math.sqrt(stats.ncx2.ppf(level, 16, off))
        assert exact <= float(found.ball[0, k]) <= 1.06 * exact
    assert torch.equal(found.deviation, 3 * found.ball)


def test_the_centre_is_the_output_with_the_smallest_half():
    seen: list[Tensor] = []

    def model(v: Tensor) -> Tensor:
        seen.append(v.clone())
        return v

    x = images(1, 4)
    found = centre_smoothing(model, x, sigma=SIGMA, eps=0.01, m=40, n=200)
    first = torch.cat(seen)[:40].double().flatten(1).numpy()
    apart = np.linalg.norm(first[:, None] - first[None], axis=2)
    best = np.sort(apart, 1)[:, 19].argmin()
    np.testing.assert_array_equal(found.centre[0].double().flatten().numpy(), first[best])


@pytest.mark.parametrize("distance", ["l2", "linf"])
def test_an_attack_moves_no_centre_out_of_the_ball(distance: str):
    model, x, radii = Sharpen(), images(), [0.05, 0.15]
    options = {"sigma": SIGMA, "eps": radii, "distance": distance, "m": 60, "n": 500}
    found = centre_smoothing(model, x, **options)
    assert found.deviation.shape == (2, 2)
    assert (found.deviation[1] > found.deviation[0]).all()
    for k, eps in enumerate(radii):
        attack = fa.PGD(model, norm="l2", eps=eps, steps=10, view=fa.views.Noise(std=SIGMA), eot=4)
        there = centre_smoothing(model, attack(x, model(x).detach()), **options | {"seed": 8}).centre
        order = math.inf if distance == "linf" else 2
        away = torch.linalg.vector_norm((there - found.centre).flatten(1), order, dim=1)
        assert (away <= found.deviation[k]).all()


def test_nothing_depends_on_the_batch():
    model, x = Sharpen(), images(3)
    options = {"sigma": SIGMA, "eps": 0.05, "seed": 4}
    whole = median_smoothing(model, x, **options, n=200, max_batch=64)
    alone = median_smoothing(model, x[2:], **options, n=200, sample_ids=torch.tensor([2]))
    torch.testing.assert_close(whole.low[:, 2:], alone.low, atol=1e-6, rtol=0)
    first = centre_smoothing(model, x, **options, m=30, n=100)
    second = centre_smoothing(model, x[1:], **options, m=30, n=100, sample_ids=torch.tensor([1, 2]), max_batch=7)
    torch.testing.assert_close(first.deviation[:, 1:], second.deviation)
    torch.testing.assert_close(first.centre[1:], second.centre)


class Speckle:
    """A defence with noise by name, larger than that of the smoothing."""

    how = "speckle"

    def purify(self, x: Tensor, *, sample_ids: Tensor | None = None, draw: int = 0) -> Tensor:
        ids = torch.arange(len(x)) if sample_ids is None else sample_ids
        noise = [np.random.default_rng([int(name), draw]).normal(0, 0.5, x.shape[1:]) for name in ids]
        return x + torch.tensor(np.stack(noise), dtype=x.dtype)


def test_the_noise_of_a_defended_denoiser_belongs_to_the_copies():
    model, x = fa.defenses.Defended(Speckle(), nn.Identity()), images(2, 4)
    options = {"sigma": SIGMA, "eps": 0.05}
    found = [median_smoothing(model, x, **options, n=300, max_batch=size) for size in (1, 8, None)]
    for one in found:
        for other in found:
            assert (one.low[0] <= other.median).all()
            assert (other.median <= one.high[0]).all()
    assert torch.equal(found[0].median, found[2].median)
    torch.testing.assert_close(found[0].median, x, atol=5 * 0.51 * 1.26 / math.sqrt(300), rtol=0)
    balls = [centre_smoothing(model, x, **options, m=30, n=100, max_batch=size) for size in (1, 8, None)]
    torch.testing.assert_close(balls[0].ball, balls[1].ball)
    torch.testing.assert_close(balls[0].ball, balls[2].ball)


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_the_least_number_of_copies_is_told_and_is_enough():
    x = images(1, 4)
    with pytest.raises(ValueError, match=r"n: wanted at least (\d+) copies for eps = 0.2, sigma = 0.1") as told:
        median_smoothing(contrast, x, sigma=SIGMA, eps=[0.02, 0.2], n=20)
    least = int(str(told.value).split("at least ")[1].split()[0])
    median_smoothing(contrast, x, sigma=SIGMA, eps=[0.02, 0.2], n=least)
    with pytest.raises(ValueError, match="n: wanted at least"):
        median_smoothing(contrast, x, sigma=SIGMA, eps=[0.02, 0.2], n=least - 1)
    with pytest.raises(ValueError, match="n: wanted at least") as told:
        centre_smoothing(contrast, x, sigma=SIGMA, eps=0.1, m=50, n=20)
    least = int(str(told.value).split("at least ")[1].split()[0])
    centre_smoothing(contrast, x, sigma=SIGMA, eps=0.1, m=50, n=least)
    with pytest.raises(ValueError, match="n: wanted at least"):
        centre_smoothing(contrast, x, sigma=SIGMA, eps=0.1, m=50, n=least - 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sigma": 0.0}, "sigma: wanted a finite number > 0, got 0.0"),
        ({"sigma": 25}, r"sigma: wanted a noise level up to 1, .* got 25, did you mean 25 / 255\?"),
        ({"sigma": 300.0}, r"sigma: wanted a noise level up to 1, for images in \[0, 1\], got 300.0$"),
        ({"eps": -1}, "eps: wanted l2 radii > 0, got -1"),
        ({"eps": []}, "eps: wanted at least one radius, got none"),
        ({"alpha": 1.5}, r"alpha: wanted a number in \(0, 1\), got 1.5"),
        ({"eps": 10.0}, "n: wanted a smaller eps / sigma"),
    ],
)
def test_options_that_do_not_fit(options: dict, words: str):
    with pytest.raises(ValueError, match=words):
        median_smoothing(contrast, images(1, 4), **({"sigma": SIGMA, "eps": 0.05} | options))
    if "sigma" in options:
        with pytest.raises(ValueError, match=words):
            centre_smoothing(contrast, images(1, 4), **options, eps=0.05)


def test_outputs_and_distances_that_do_not_fit():
    x = images(1, 4)
    with pytest.raises(fa.NonFiniteError, match="wanted finite outputs on noisy copies"):
        median_smoothing(lambda v: v / 0, x, sigma=SIGMA, eps=0.05)
    with pytest.raises(TypeError, match="model: wanted floats"):
        median_smoothing(lambda v: v.long(), x, sigma=SIGMA, eps=0.05)
    with pytest.raises(ValueError, match="distance: wanted one number for each of"):
        centre_smoothing(contrast, x, sigma=SIGMA, eps=0.05, distance=lambda a, b: (a - b).abs())
    with pytest.raises(ValueError, match="distance: wanted numbers >= 0"):
        centre_smoothing(contrast, x, sigma=SIGMA, eps=0.05, distance=lambda a, b: (a - b).flatten(1).sum(1))
    with pytest.raises(ValueError, match="distance: wanted 'l1', 'l2', 'linf' or a number p >= 1, got 'psnr'"):
        centre_smoothing(contrast, x, sigma=SIGMA, eps=0.05, distance="psnr")
