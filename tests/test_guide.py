"""fa.defenses.LatentGuide against closed forms, finite differences, and what it promises of memory and errors."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastattack as fa
from fastattack.defenses import Auxiliary, LatentGuide
from fastattack.ops.reference_random import sample_normals
from tests.test_purifier import SHARES, SPREAD, _Live, gaussian, images, small

SIDE = 4
PIXELS = SIDE * SIDE
LOW, HIGH = -1.0, 1.0


def matrix() -> np.ndarray:
    return np.random.default_rng(2).normal(size=(5, PIXELS)) / 4


class Linear(nn.Module):
    """h(u) = A u, so that D is a quadratic form."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(matrix()))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.a.T


class Curved(nn.Module):
    """Latents with curvature everywhere, (B, 2, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.a = nn.Conv2d(1, 2, 3, padding=1).double()

    def forward(self, x: Tensor) -> Tensor:
        return (2 * self.a(x)).tanh() + self.a(x).square()


def guided(guide: LatentGuide, *, t_star: int = 60, steps: int = 3, **options: Any) -> fa.Purifier:
    return fa.Purifier(
        gaussian(low=LOW, high=HIGH), t_star=t_star, steps=steps, sampler="ddim", seed=7, guide=guide, **options
    )


def written_out(x: np.ndarray, z: np.ndarray, levels: tuple[int, ...], s: float, at: str) -> np.ndarray:
    """The guided DDIM process for pixels N(0, SPREAD^2) on the model's scale; x (B, PIXELS) in [0, 1].

    eps_hat + s sqrt(1 - ab) grad_{x_t} |A (u - x)|^2, the gradient by the chain rule from u to x_t.
    """
    a = matrix()
    share = SHARES[levels[0]]
    y = math.sqrt(share) * (x * (HIGH - LOW) + LOW) + math.sqrt(1 - share) * z
    for t, r in pairwise(levels):
        here, there = SHARES[t], SHARES[r]
        eps = y * math.sqrt(1 - here) / (here * SPREAD**2 + 1 - here)
        seen = (y - math.sqrt(1 - here) * eps if at == "x0" else y) / math.sqrt(here)
        u = (seen - LOW) / (HIGH - LOW)
        of_u = 2 * (u - x) @ a.T @ a
        eps = eps + s * math.sqrt(1 - here) * of_u / (math.sqrt(here) * (HIGH - LOW))
        y = math.sqrt(there / here) * (y - math.sqrt(1 - here) * eps) + math.sqrt(1 - there) * eps
    return (y - LOW) / (HIGH - LOW)


@pytest.mark.parametrize("at", ["x0", "xt"])
def test_a_quadratic_distance_in_closed_form(at: str) -> None:
    """Images and the exact gradient; in the linear process a difference of two runs is the Jacobian's product."""
    s = 0.7
    purifier = guided(LatentGuide(Linear(), scale=s, at=at))
    x = images(2, SIDE, requires_grad=True)
    seed = fa.defenses.purifier.seed_of_draw(7, 0)
    z = sample_normals(PIXELS, seed, torch.arange(2), 3).numpy().astype(np.float64)
    flat = x.detach().flatten(1).numpy()
    out = purifier.purify(x)
    wanted = written_out(flat, z, purifier.process.levels, s, at)
    assert np.abs(wanted - written_out(flat, z, purifier.process.levels, 0.0, at)).max() > 1e-3
    np.testing.assert_allclose(out.detach().flatten(1).numpy(), wanted, rtol=1e-6, atol=1e-7)  # float32 normals
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (found,) = torch.autograd.grad((out * weight).sum(), x)
    base = written_out(np.zeros((1, PIXELS)), np.zeros((1, PIXELS)), purifier.process.levels, s, at)
    jacobian = written_out(np.eye(PIXELS), np.zeros((PIXELS, PIXELS)), purifier.process.levels, s, at) - base
    np.testing.assert_allclose(found.flatten(1).numpy(), weight.flatten(1).numpy() @ jacobian.T, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("at", ["x0", "xt"])
@pytest.mark.parametrize("distance", ["l2", "cosine"])
def test_the_gradient_is_of_the_second_order(at: str, distance: str) -> None:
    """Finite differences of the whole process, through a network with curvature and a diffusion model that is none."""
    guide = LatentGuide(Curved(), scale=3.0 if distance == "l2" else 30.0, distance=distance, at=at)
    purifier = fa.Purifier(small(), t_star=40, steps=2, guide=guide)
    x = images(1, 3, requires_grad=True)
    assert torch.autograd.gradcheck(purifier.purify, (x,))
    assert (purifier.purify(x) - purifier.replaced(guide=None).purify(x)).abs().max() > 1e-3


def test_bpda_and_a_surrogate_are_guided_in_their_own_way() -> None:
    x = images(2, SIDE, requires_grad=True)
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    full = fa.Purifier(small(), t_star=40, steps=6, guide=LatentGuide(Curved(), scale=3.0))

    def both(purifier: fa.Purifier) -> tuple[Tensor, Tensor]:
        out = purifier.purify(x)
        return out, torch.autograd.grad((out * weight).sum(), x)[0]

    for kind in ("bpda", "surrogate"):
        out, grad = both(full.replaced(gradient=kind, surrogate_steps=3))
        assert torch.equal(out, both(full)[0])
        wanted = weight if kind == "bpda" else both(full.replaced(steps=3))[1]
        torch.testing.assert_close(grad, wanted, rtol=1e-12, atol=1e-12)
    unguided = full.replaced(steps=3, guide=None)
    assert not torch.allclose(both(full.replaced(steps=3))[1], both(unguided)[1], rtol=1e-2)


def test_it_leads_towards_the_latents_of_the_input() -> None:
    h, x = Curved(), images(4, SIDE)
    plain = fa.Purifier(small(), t_star=80, steps=4)

    def distance(purifier: fa.Purifier) -> Tensor:
        return (h(purifier.purify(x)) - h(x)).square().flatten(1).sum(1)

    with torch.no_grad():
        far, near = distance(plain), distance(plain.replaced(guide=LatentGuide(h, scale=2.0)))
        assert bool((near < 0.7 * far).all()), (near, far)


def test_scale_0_and_no_factor_are_no_guide() -> None:
    x, plain = images(2, SIDE), guided(LatentGuide(Linear())).replaced(guide=None)
    for guide in (LatentGuide(Linear(), scale=0), LatentGuide(Linear(), schedule=lambda level: 0.0)):
        assert torch.equal(plain.replaced(guide=guide).purify(x), plain.purify(x))


def test_schedules() -> None:
    """s(t) sigma_t: the noise beside images in [0, 1] is half of that on the scale of -1 to 1."""
    sigma = math.sqrt((1 - SHARES[50]) / SHARES[50]) / 2
    diffusion = small()
    for schedule, wanted in (("constant", 3 * sigma), ("sigma", 3.0), (lambda level: level / 100, 1.5 * sigma)):
        guide = LatentGuide(Linear(), scale=3.0, schedule=schedule).bound(diffusion)
        assert guide.strength(50) == pytest.approx(wanted, rel=1e-12)


def test_no_batch_split_changes_a_number() -> None:
    x = images(5, 8).float()
    whole = fa.Purifier(gaussian(), t_star=60, steps=3, guide=LatentGuide(Auxiliary(1, widths=(8, 8)), scale=20.0))
    grads = []
    for size in (None, 2):
        leaf = x.clone().requires_grad_()
        out = whole.replaced(max_batch=size).purify(leaf)
        grads.append((out.detach(), torch.autograd.grad(out.square().sum(), leaf)[0]))
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-5, atol=1e-6)
    named = whole.purify(x[3:], sample_ids=torch.arange(3, 5))
    torch.testing.assert_close(named, grads[0][0][3:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gradient", ["full", "bpda", "surrogate"])
def test_the_callers_autocast_is_for_the_model_behind(gradient: str) -> None:
    """Attack and purification are of one purifier and one guide, in their own precision, whoever is around them."""
    net, x = Curved().float(), images(1).float()
    diffusion = small().float()
    purifier = fa.Purifier(
        diffusion, t_star=40, steps=2, guide=LatentGuide(net, scale=0.5), gradient=gradient, surrogate_steps=1, seed=7
    )

    def both(autocast: bool) -> tuple[Tensor, Tensor]:
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = purifier.purify(leaf)
            (found,) = torch.autograd.grad(out.square().sum(), leaf)
        return out.detach(), found

    for plain, under in zip(both(False), both(True), strict=True):
        assert torch.equal(plain, under)
    seen = []
    with torch.autocast("cpu", torch.bfloat16):
        purifier(lambda y: seen.append(torch.mm(y[0, 0], y[0, 0]).dtype) or y)(x)
    assert seen == [torch.bfloat16]


def test_memory_holds_the_graph_of_one_step() -> None:
    """The forward pass none at all: what grows with the steps are the states that are kept."""
    x, peaks = images(2, SIDE), {}
    for steps in (6, 18):
        purifier = fa.Purifier(gaussian(), t_star=18, steps=steps, sampler="ddim", guide=LatentGuide(Curved()))
        leaf = x.clone().requires_grad_()
        with _Live() as live:
            out = purifier.purify(leaf)
            forward = live.peak
            out.sum().backward()
        peaks[steps] = forward, live.peak
    assert peaks[18][0] <= peaks[6][0] + 13 * x.nbytes
    assert peaks[18][1] <= peaks[6][1] + 13 * x.nbytes
    assert peaks[6][1] > peaks[6][0] + 13 * x.nbytes  # which would not hide the graph of twelve steps


def test_the_latents_of_the_input_are_made_once() -> None:
    seen: list[bool] = []
    aux = Linear()
    aux.register_forward_hook(lambda module, args, out: seen.append(torch.is_grad_enabled()))
    purifier = guided(LatentGuide(aux))
    purifier.purify(images(2, SIDE))
    assert seen == [False, True, True, True]


def test_the_network_and_the_random_state_are_left_as_they_were() -> None:
    aux = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.SiLU()).double().train()
    aux[1].bias.requires_grad_(False)
    before, state = {k: v.clone() for k, v in aux.state_dict().items()}, torch.get_rng_state()
    x = images(2, 8, requires_grad=True)
    purifier = guided(LatentGuide(aux))
    out = purifier.purify(x)
    out.sum().backward()
    with torch.inference_mode():
        assert torch.equal(purifier.purify(x.detach()), out)  # no dropout, and no batch statistics
    assert torch.equal(torch.get_rng_state(), state)
    assert aux.training
    assert aux[2].training
    assert [p.requires_grad for p in aux.parameters()] == [True, False, True, True]
    assert all(p.grad is None for p in aux.parameters())
    assert all(torch.equal(v, before[k]) for k, v in aux.state_dict().items())


def test_a_purified_model_moves_and_holds_the_network() -> None:
    aux = Auxiliary(1, widths=(4,), latent=3)
    defended = guided(LatentGuide(aux))(nn.Identity()).double()
    assert next(aux.parameters()).dtype == torch.float64
    assert defended.train() is defended
    assert not aux.training
    x = images(2, 8)
    adv = fa.PGD(defended, eps=0.02, steps=2)(x, torch.zeros_like(x))
    assert 0.01 < float((adv - x).abs().max()) <= 0.02


def test_images_of_another_type_and_of_three_channels() -> None:
    """float32 latents beside float64 images; a model that sees each channel alone, guided by all three."""
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    purifier = fa.Purifier(gaussian(each_channel=True), t_star=30, steps=2, guide=LatentGuide(Auxiliary(3)))
    assert purifier.purify(x).dtype == torch.float64
    with pytest.raises(ValueError, match=r"auxiliary: wanted a network for 1 channel\(s\) as the images have, .* 3"):
        purifier.purify(x[:, :1])


# -- errors ------------------------------------------------------------------------------------------------------------


def test_nan_names_the_step() -> None:
    guide = LatentGuide(Linear(), schedule=lambda level: 1e308 if level < 30 else 0.0, scale=1e308)
    with pytest.raises(fa.NonFiniteError, match=r"reverse step 5 of 6 \(level 20 to 10\); .* is guided"):
        guided(guide, steps=6).purify(images(1, SIDE))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": -1.0}, "scale: wanted a finite number >= 0, got -1.0"),
        ({"scale": math.nan}, "scale: wanted a finite number >= 0, got nan"),
        ({"scale": math.inf}, "scale: wanted"),
        ({"scale": "1"}, "scale: wanted"),
        ({"schedule": "cosine"}, "schedule: wanted 'constant' or 'sigma' or a function of the level, got 'cosine'"),
        ({"schedule": 3}, "schedule: wanted"),
        ({"distance": "l1"}, "distance: wanted 'l2' or 'cosine', got 'l1'"),
        ({"at": "x1"}, "at: wanted 'x0' or 'xt', got 'x1'"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LatentGuide(Linear(), **options)


def test_guides_that_do_not_fit() -> None:
    x = images(2, 8)
    with pytest.raises(TypeError, match=r"auxiliary: wanted an nn\.Module, got function"):
        LatentGuide(lambda v: v)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"guide: wanted a function .* got int"):
        guided(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"guide: wanted an auxiliary network for 1 channel\(s\) .* got one for 3"):
        guided(LatentGuide(Auxiliary(3)))
    with pytest.raises(RuntimeError, match=r"LatentGuide: wanted bound\(diffusion\) first"):
        LatentGuide(Linear())(x, x, 5, x)
    with pytest.raises(ValueError, match=r"schedule: wanted a finite factor >= 0 for level 60, got -1"):
        guided(LatentGuide(Auxiliary(1), schedule=lambda level: -1)).purify(x)
    for net, message in (
        (nn.Sequential(nn.Flatten(), nn.Linear(9, 2)), r"auxiliary: does not take images \(2, 1, 8, 8\): RuntimeError"),
        (nn.Flatten(0), r"auxiliary: wanted float latents \(2, ...\), a row for each image, got \(128,\)"),
        (Constant(), "auxiliary: wanted latents that autograd follows to the images"),
    ):
        with pytest.raises(ValueError, match=message):
            guided(LatentGuide(net)).purify(x)


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ones(len(x), 3)
