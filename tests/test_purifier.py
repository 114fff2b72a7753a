"""fa.Purifier against closed forms of a Gaussian prior, plain autograd, and what it promises of names and errors."""

from __future__ import annotations

import math
import weakref
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastattack as fa
from fastattack.diffusion import Diffusion, Schedule
from fastattack.diffusion.process import advance
from fastattack.images import find_images, read_image
from fastattack.metrics import psnr
from fastattack.ops.reference_random import sample_normals
from tests.shared import SHARED, needs_shared

STEPS = 200
SHARES = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-3, 0.05, STEPS))])  # ab of levels 0 .. 200
SCHEDULE = Schedule.linear(STEPS, 1e-3, 0.05)
SPREAD = 0.5  # standard deviation of the prior's pixels


def gaussian(**options: Any) -> Diffusion:
    """The best eps(x_t, t) where pixels are N(0, SPREAD^2) on the model's scale."""
    shares = torch.tensor(SHARES)

    def best(x: Tensor, t: Tensor) -> Tensor:
        share = shares[t + 1].view(-1, 1, 1, 1)
        return ((1 - share).sqrt() / (share * SPREAD**2 + 1 - share)).to(x.dtype) * x

    return Diffusion(best, SCHEDULE, **({"channels": 1, "low": 0.0, "high": 1.0} | options))


class Small(nn.Module):
    """A small network that is not linear in x and knows t."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.a, self.b = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 1, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x + self.b(torch.tanh(self.a(x) + 0.01 * t[:, None, None, None]))


def small() -> Diffusion:
    return Diffusion(Small().double(), SCHEDULE, channels=1)


def images(count: int = 3, size: int = 8, **options: Any) -> Tensor:
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(5), dtype=torch.float64, **options)


# -- closed forms ------------------------------------------------------------------------------------------------------


def chain(levels: list[int], ddpm: bool) -> tuple[float, float]:
    """(factor, variance) of the output given the input, in float64, by the published forms of the steps.

    DDPM: the posterior of x_r given x_s and the estimate of x_0 (arXiv 2006.11239, equations 6 and 7, for one step over
    several levels); DDIM: the estimate of x_0 and the noise, put together anew (arXiv 2010.02502, equation 9).
    """
    share = SHARES[levels[0]]
    factor, variance = math.sqrt(share), 1 - share
    for s, r in pairwise(levels):
        here, there = SHARES[s], SHARES[r]
        clean = math.sqrt(here) * SPREAD**2 / (here * SPREAD**2 + 1 - here)  # E[x_0 | x_s] / x_s
        if ddpm:
            alpha = here / there
            step = math.sqrt(there) * (1 - alpha) / (1 - here) * clean + math.sqrt(alpha) * (1 - there) / (1 - here)
            drawn = (1 - there) / (1 - here) * (1 - alpha)
        else:
            noise = (1 - math.sqrt(here) * clean) / math.sqrt(1 - here)
            step, drawn = math.sqrt(there) * clean + math.sqrt(1 - there) * noise, 0.0
        factor, variance = factor * step, variance * step**2 + drawn
    return factor, variance


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("steps", [None, 6, 1])
def test_mean_and_variance_of_a_gaussian_prior(sampler: str, steps: int | None) -> None:
    t_star = 60
    count = steps or t_star
    levels = [round(t_star * (count - k) / count) for k in range(count + 1)]
    factor, variance = chain(levels, sampler == "ddpm")
    purifier = fa.Purifier(gaussian(), t_star=t_star, steps=steps, sampler=sampler, seed=3)
    assert list(purifier.process.levels) == levels
    x = images(4, 48) - 0.5
    out, still = purifier.purify(x), purifier.purify(torch.zeros_like(x))
    torch.testing.assert_close(out - still, factor * x, rtol=1e-6, atol=1e-6)  # the noise is the same
    pixels = still.numel()
    assert float(still.var()) == pytest.approx(variance, rel=5 * math.sqrt(2 / pixels))
    assert abs(float(still.mean())) < 5 * math.sqrt(variance / pixels)


def test_many_ancestral_steps_sample_the_posterior() -> None:
    """X_0 given x_t: its mean and variance need no schedule of steps."""
    share = SHARES[100]
    kept = share * SPREAD**2 / (share * SPREAD**2 + 1 - share)
    mean, variance = chain(list(range(100, -1, -1)), True)
    assert mean == pytest.approx(kept, rel=0.03)
    posterior = SPREAD**2 * (1 - share) / (share * SPREAD**2 + 1 - share)
    assert variance == pytest.approx(posterior + kept**2 * (1 - share) / share, rel=0.06)
    still = fa.Purifier(gaussian(), t_star=100).purify(torch.zeros(4, 1, 64, 64, dtype=torch.float64))
    assert float(still.var()) == pytest.approx(posterior + kept**2 * (1 - share) / share, rel=0.08)


def test_ddim_draws_nothing_after_the_jump() -> None:
    """The output is what its deterministic map makes of x_t, whose noise is Philox of (seed, draw's stream, pixel)."""
    purifier = fa.Purifier(gaussian(), t_star=50, sampler="ddim", seed=7)
    x = images(2)
    seed = fa.defenses.purifier.seed_of_draw(7, 0)
    z = sample_normals(64, seed, torch.arange(2), 3).reshape(x.shape).double()
    start = math.sqrt(SHARES[50]) * x + math.sqrt(1 - SHARES[50]) * z
    factor, _ = chain(list(range(50, -1, -1)), False)
    torch.testing.assert_close(purifier.purify(x), factor / math.sqrt(SHARES[50]) * start, rtol=1e-6, atol=1e-7)


# -- levels ------------------------------------------------------------------------------------------------------------


def test_level_0_is_the_identity() -> None:
    x = images().float()
    for options in ({"t_star": 0}, {"sigma": 0.0}, {"t_star": 0, "gradient": "bpda"}):
        assert torch.equal(fa.Purifier(gaussian(), **options).purify(x), x)


def test_t_star_as_a_noise_level() -> None:
    purifier = fa.Purifier(Diffusion(Small(), Schedule.linear(), channels=1), sigma=25 / 255)
    below, above = (
        math.sqrt(1 / purifier.diffusion.schedule.alpha_bar(n) - 1) / 2 for n in (purifier.level - 1, purifier.level)
    )
    assert below < 25 / 255 <= above == pytest.approx(purifier.sigma)
    assert purifier.replaced(t_star=3).level == 3
    assert purifier.replaced(seed=4).level == purifier.level


def test_an_input_that_is_noisy_enters_at_its_level() -> None:
    """Only what is missing is added: the noise at t*, the input's included, is that of the level."""
    zero = Diffusion(lambda x, t: torch.zeros_like(x), SCHEDULE, channels=1)  # the reverse process then only rescales
    noisy = fa.Purifier(zero, input_sigma=0.1, sampler="ddim")
    assert 0.1 <= noisy.sigma < 0.11
    clean = torch.full((4, 1, 64, 64), 0.5, dtype=torch.float64)
    for purifier in (noisy, noisy.replaced(sigma=0.3)):
        for held in (0.0, 0.1):
            x = clean + held * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
            spread = float((purifier.purify(x) - 0.5).std())
            missing = math.sqrt(purifier.sigma**2 - 0.1**2)
            assert spread == pytest.approx(math.hypot(held, missing), rel=0.03)
    with pytest.raises(ValueError, match=r"t_star: wanted level \d+ or above, where there is the noise of input_sigma"):
        noisy.replaced(t_star=2)


def test_an_output_that_is_to_be_noisy() -> None:
    """For the exact prior the output is an image of the prior and noise of output_sigma: variances add."""
    purifier = fa.Purifier(gaussian(), t_star=150, output_sigma=0.2)
    x = SPREAD * torch.randn(4, 1, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert float(purifier.purify(x).var()) == pytest.approx(SPREAD**2 + 0.2**2, rel=0.05)
    assert purifier.process.levels[-1] > 0
    with pytest.raises(ValueError, match="output_sigma: wanted less than"):
        fa.Purifier(gaussian(), t_star=3, output_sigma=0.5)


# -- names and draws ---------------------------------------------------------------------------------------------------


def test_noise_belongs_to_names_not_to_places() -> None:
    purifier = fa.Purifier(small(), t_star=20, steps=5, seed=1)
    x, ids = images(5), torch.tensor([9, 2, 2**40, 0, 5])
    state = torch.get_rng_state()
    whole = purifier.purify(x, sample_ids=ids)
    parts = torch.cat([purifier.purify(x[k : k + 2], sample_ids=ids[k : k + 2]) for k in (0, 2, 4)])
    torch.testing.assert_close(whole, parts, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(purifier.replaced(max_batch=2).purify(x, sample_ids=ids), whole, rtol=1e-12, atol=1e-12)
    assert torch.equal(purifier.purify(x, sample_ids=ids), whole)
    assert torch.equal(torch.get_rng_state(), state)
    others = [purifier.purify(x, sample_ids=ids, draw=1), purifier.purify(x), purifier.replaced(seed=2).purify(x)]
    assert all(not torch.allclose(whole, other, atol=1e-3) for other in others)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_step_in_place_and_the_plain_one_give_the_same_bits(dtype: torch.dtype) -> None:
    """The backward pass makes states again that the forward pass made by the op."""
    x, eps = images(2).to(dtype), images(2).to(dtype) - 0.5
    by = fa.diffusion.reverse_coefficients(SCHEDULE, 80, 73, 1.0)
    options: dict[str, Any] = {"seed": 3, "step": 80, "sample_ids": torch.tensor([4, 2**33])}
    expected = advance(x, eps, by, **options)
    assert torch.equal(advance(x.clone(), eps, by, **options, overwrite=True), expected)
    z = sample_normals(64, 3, options["sample_ids"], 3 + 256 * 80).reshape(x.shape)
    torch.testing.assert_close(expected, by[0] * x + by[1] * eps + by[2] * z.to(dtype))
    assert by[2] > 0


# -- gradients ---------------------------------------------------------------------------------------------------------


def plain(purifier: fa.Purifier, x: Tensor) -> Tensor:
    """The process written down again, with the graph of all steps."""
    seed = fa.defenses.purifier.seed_of_draw(purifier.options.seed, 0)
    levels, ddpm = purifier.process.levels, purifier.options.sampler == "ddpm"

    def drawn(step: int) -> Tensor:
        return sample_normals(x[0].numel(), seed, torch.arange(len(x)), 3 + 256 * step).reshape(x.shape).to(x.dtype)

    y = math.sqrt(SHARES[levels[0]]) * (2 * x - 1) + math.sqrt(1 - SHARES[levels[0]]) * drawn(0)
    for s, r in pairwise(levels):
        here, there = SHARES[s], SHARES[r]
        eps = purifier.diffusion.model(y, torch.full((len(x),), s - 1))
        clean = (y - math.sqrt(1 - here) * eps) / math.sqrt(here)
        sigma = math.sqrt((1 - there) / (1 - here) * (1 - here / there)) if ddpm else 0.0
        y = math.sqrt(there) * clean + math.sqrt(1 - there - sigma**2) * eps + (sigma * drawn(s) if ddpm else 0)
    return (y + 1) / 2


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("steps", [5, 70])  # 70: more than are kept, so that states are made again
def test_the_full_gradient_is_autograds(sampler: str, steps: int) -> None:
    purifier = fa.Purifier(small(), t_star=80, steps=steps, sampler=sampler, seed=2)
    x = images(requires_grad=True)
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    out, wanted = purifier.purify(x), plain(purifier, x)
    torch.testing.assert_close(out, wanted, rtol=1e-9, atol=1e-9)
    (found,) = torch.autograd.grad((out * weight).sum(), x)
    (right,) = torch.autograd.grad((wanted * weight).sum(), x)
    torch.testing.assert_close(found, right, rtol=1e-8, atol=1e-9)
    with torch.no_grad():
        assert torch.equal(purifier.purify(x), out)


def test_bpda_is_the_identity_and_a_surrogate_is_the_short_process() -> None:
    x = images(requires_grad=True)
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    full = fa.Purifier(small(), t_star=40, seed=2)
    outs, grads = {}, {}
    for kind in ("full", "bpda", "surrogate"):
        outs[kind] = full.replaced(gradient=kind, surrogate_steps=4).purify(x)
        (grads[kind],) = torch.autograd.grad((outs[kind] * weight).sum(), x)
    assert torch.equal(outs["bpda"], outs["full"])
    assert torch.equal(outs["surrogate"], outs["full"])
    assert torch.equal(grads["bpda"], weight)
    short = full.replaced(steps=4)
    (right,) = torch.autograd.grad((plain(short, x) * weight).sum(), x)
    torch.testing.assert_close(grads["surrogate"], right, rtol=1e-8, atol=1e-9)
    assert not torch.allclose(grads["surrogate"], grads["full"], rtol=1e-3)


class _Live(TorchDispatchMode):
    """The most bytes of tensors that were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(t, Tensor):
                self._see(t.untyped_storage())
        return out

    def _see(self, storage: Any) -> None:
        key, size = storage.data_ptr(), storage.nbytes()
        if key and key not in self.known:
            self.known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def test_memory_does_not_grow_with_the_steps() -> None:
    """Peak bytes of a gradient: what grows is a state for each of a stride's steps, an image and no graph."""
    x = images(2, 16)
    peaks, naive = {}, {}
    for steps in (32, 96):
        purifier = fa.Purifier(small(), t_star=160, steps=steps, sampler="ddim")
        for function, found in ((purifier.purify, peaks), (lambda v, p=purifier: plain(p, v), naive)):
            leaf = x.clone().requires_grad_()
            with _Live() as live:
                function(leaf).sum().backward()
            found[steps] = live.peak
    assert naive[96] > 2.6 * naive[32]  # what is measured does grow where graphs are kept
    assert peaks[96] <= peaks[32] + 3 * x.nbytes
    assert peaks[32] < naive[32] / 4


def test_the_guide_sees_the_input_and_its_gradient_counts() -> None:
    def guide(eps: Tensor, x: Tensor, level: int, origin: Tensor) -> Tensor:
        return eps + 0.01 * level * (x - origin).tanh()

    guided = fa.Purifier(small(), t_star=6, guide=guide)
    x = images(1, 4)
    assert torch.autograd.gradcheck(guided.purify, (x.requires_grad_(),))
    assert not torch.allclose(guided.purify(x), fa.Purifier(guided.diffusion, t_star=6).purify(x))


# -- in front of a model -----------------------------------------------------------------------------------------------


def test_a_purified_model_keeps_its_mode_and_weights_as_they_are() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 3)).double()
    purifier = fa.Purifier(small(), t_star=10, steps=2)
    purified = purifier(model)
    assert purified.training
    assert not purifier.diffusion.training
    x = images()
    out = purified.eval()(x)
    torch.testing.assert_close(out, model(purifier.purify(x)))
    purified.train()(x).sum().backward()
    assert model[2].weight.grad is not None
    assert not purifier.diffusion.training
    assert all(p.grad is None for p in purifier.diffusion.parameters())


class _Reports(nn.Module):
    """A linear score, and the noise that the purifier put into what it sees."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x.flatten(1).sum(1), -x.flatten(1).square().sum(1)], 1)


@pytest.mark.parametrize("eot", [1, 3])
def test_attacks_name_samples_and_draws(eot: int) -> None:
    """Micro-batches change no number, and the expectation is taken over the purifier's own draws."""
    purifier = fa.Purifier(small(), t_star=20, steps=3, seed=1)
    seen: list[tuple[list[int], int]] = []

    class Watched(fa.Purified):
        def for_samples(self, sample_ids: Tensor | None, draw: int) -> Any:
            assert sample_ids is not None
            seen.append((sample_ids.tolist(), draw))
            return super().for_samples(sample_ids, draw)

    x, labels = images(4), torch.tensor([0, 1, 0, 1])
    ce, found = fa.objectives.cross_entropy, []
    for size in (4, 3):
        seen.clear()
        attack = fa.PGD(Watched(purifier, _Reports()), eps=0.05, steps=3, eot=eot, seed=5, max_batch=size, objective=ce)
        found.append(attack(x, labels))
        assert {k for names, _ in seen for k in names} == {0, 1, 2, 3}
        draws = {draw for _, draw in seen}
        assert draws == {0} if eot == 1 else len(draws) >= 3 * eot
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)
    assert not torch.equal(found[0], x)
    with pytest.raises(ValueError, match="precision: wanted 'fp32' for a model behind a defence"):
        fa.PGD(purifier(_Reports()), eps=0.05, steps=1, precision="bf16")(x.float(), labels)


def test_the_strength_check_tells_of_another_backward_pass() -> None:
    """A process that turns the image over: the identity as its gradient climbs down, and the report says so."""

    def turning(x: Tensor, t: Tensor) -> Tensor:
        share = torch.tensor(SHARES)[t + 1].view(-1, 1, 1, 1)
        return (x * (1 + share.sqrt()) / (1 - share).sqrt()).to(x.dtype)  # the estimate of x_0 is -x_t

    purifier = fa.Purifier(Diffusion(turning, SCHEDULE, channels=1), t_star=10, steps=1, gradient="bpda")
    x, target = images(3), torch.zeros(3, 1, 8, 8, dtype=torch.float64)
    options: dict[str, Any] = {"eps": 0.02, "steps": 8, "restarts": 2, "queries": 10}
    purified = purifier(nn.Identity())
    report = fa.strength_check(purified, x, target, **options)
    assert {"blind", "full", "surrogate"} <= set(report.rises)
    assert any("backward pass" in text and "gradient='full'" in text for text in report.warnings)
    assert float(report.rises["full"].min()) > 10 * float(report.rises["8 steps"].max())
    right = fa.strength_check(purifier.replaced(gradient="full")(nn.Identity()), x, target, **options)
    assert not any("backward pass" in text for text in right.warnings)
    blind = fa.PGD(nn.Identity(), eps=0.02, steps=8)(x, target)
    rise = (purified(blind) - target).square().mean((1, 2, 3)) - (purified(x) - target).square().mean((1, 2, 3))
    torch.testing.assert_close(right.rises["blind"], rise.clamp(min=0), rtol=1e-6, atol=1e-9)


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"t_star": 201}, r"t_star: wanted a level from 0 \(no noise\) to 200, .* got 201"),
        ({"t_star": -1}, "t_star: wanted a level"),
        ({"t_star": 2.5}, "t_star: wanted a level"),
        ({"sigma": 99.0}, "sigma: wanted a noise level from 0 to"),
        ({"sigma": 25}, r"sigma: wanted .* from 0 to 1, .* got 25, did you mean 25 / 255\?; t_star goes further"),
        ({"sigma": -0.1}, "sigma: wanted a noise level from 0 to 1"),
        ({"t_star": 5, "input_sigma": 25.0}, r"input_sigma: wanted .* got 25\.0, did you mean 25 / 255"),
        ({"t_star": 5, "output_sigma": 300}, "output_sigma: wanted .* got 300$"),
        ({}, "t_star: wanted a level, or sigma="),
        ({"t_star": 5, "sigma": 0.1}, "sigma: wanted None beside t_star"),
        ({"t_star": 5, "steps": 6}, "steps: wanted at most 5"),
        ({"t_star": 5, "sampler": "euler"}, "sampler: wanted one of 'ddpm', 'ddim'"),
        ({"t_star": 5, "gradient": "none"}, "gradient: wanted one of"),
        ({"t_star": 5, "surrogate_steps": 0}, "surrogate_steps: wanted a whole number"),
        ({"t_star": 5, "precision": "int8"}, "precision: wanted one of"),
        ({"t_star": 5, "seed": -1}, "seed: wanted 0 <= seed"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fa.Purifier(gaussian(), **options)


def test_images_that_do_not_fit() -> None:
    purifier = fa.Purifier(gaussian(), t_star=5)
    with pytest.raises(
        ValueError, match=r"x: wanted images \(B, 1, H, W\) as the diffusion model has, got \(2, 3, 8, 8\)"
    ):
        purifier.purify(torch.rand(2, 3, 8, 8))
    with pytest.raises(TypeError, match="x: wanted a float tensor"):
        purifier.purify(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="sample_ids: wanted 2 integers"):
        purifier.purify(torch.rand(2, 1, 8, 8), sample_ids=torch.arange(3))
    with pytest.raises(ValueError, match="draw: wanted 0 <= draw"):
        purifier.purify(torch.rand(2, 1, 8, 8), draw=-1)


def test_nan_names_the_step() -> None:
    def breaks(x: Tensor, t: Tensor) -> Tensor:
        return x * (math.nan if int(t[0]) == 29 else 1.0)

    purifier = fa.Purifier(Diffusion(breaks, SCHEDULE, channels=1), t_star=50, steps=5)
    with pytest.raises(fa.NonFiniteError, match=r"reverse step 3 of 5 \(level 30 to 20\)"):
        purifier.purify(images())
    with pytest.raises(fa.NonFiniteError, match="the images hold NaN"):
        fa.Purifier(gaussian(), t_star=5).purify(torch.full((1, 1, 4, 4), math.nan))


def test_a_model_that_hands_its_input_through() -> None:
    purifier = fa.Purifier(Diffusion(lambda x, t: x, SCHEDULE, channels=1), t_star=20, steps=4, sampler="ddim")
    x = images(requires_grad=True)
    torch.testing.assert_close(purifier.purify(x), plain(purifier, x), rtol=1e-9, atol=1e-9)


def test_half_precision_images_go_through_float32() -> None:
    purifier = fa.Purifier(gaussian(), t_star=30)
    x = images().to(torch.bfloat16)
    assert torch.equal(purifier.purify(x), purifier.purify(x.float()).to(torch.bfloat16))


# -- the embedded model ------------------------------------------------------------------------------------------------


def test_any_size_by_tiles_without_seams() -> None:
    """Purified flat and ramped images: at the tiles' edges neighbours differ no more than elsewhere."""
    diffusion = fa.diffusion.load()
    purifier = fa.Purifier(diffusion, t_star=20, sampler="ddim", steps=2)
    ramp = torch.linspace(0.2, 0.8, 144).expand(1, 1, 72, 144)
    for x in (torch.full_like(ramp, 0.5), ramp):
        out = purifier.purify(x.clone())
        assert out.shape == x.shape
        steps = (out[..., 1:] - out[..., :-1]).abs().mean((0, 1, 2))  # of each column to the next
        edges = torch.tensor([k for begin in (0, 40, 80) for k in (begin, begin + 63) if 0 < k < 143]) - 1
        assert float(steps[edges].max()) < 1.5 * float(steps.quantile(0.9))


@needs_shared
@pytest.mark.parametrize("sigma", [15, 25])
def test_the_embedded_model_denoises_at_its_level(sigma: int) -> None:
    paths = find_images(SHARED / "data" / "set12")[:4]
    x = torch.stack([read_image(path, 1)[:, 80:128, 80:128] for path in paths])
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) * sigma / 255
    purifier = fa.Purifier(input_sigma=sigma / 255, sampler="ddim", steps=3)
    before, after = psnr(x + noise, x), psnr(purifier.purify(x + noise), x)
    assert float((after - before).min()) > 2
