"""Attacks on denoisers and classifiers, embedded and published."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import fastattack as fa
from fastattack.images import find_images, read_image
from tests.shared import SHARED, needs_shared

SIGMA = 25 / 255


def noisy(clean: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return clean + SIGMA * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))


def inside(adv: torch.Tensor, y: torch.Tensor, x: torch.Tensor, eps: float) -> None:
    """The tolerances of the noise-preserving set, in float64."""
    before, after = ((t.double() - x.double()).flatten(1) for t in (y, adv))
    assert (adv.double() - y.double()).abs().max() <= eps * (1 + 1e-6)
    assert (after.mean(1) - before.mean(1)).abs().max() <= 1e-5
    assert (after.norm(dim=1) / before.norm(dim=1) - 1).abs().max() <= 1e-4


def test_denoising_pgd_on_the_embedded_model():
    model = fa.models.load("embedded")
    from importlib import resources

    folder = resources.files("fastattack") / "assets" / "images"
    x = torch.stack([read_image(p, 1)[:, :96, :96] for p in find_images(str(folder))])
    y = noisy(x)
    with torch.no_grad():
        before = fa.metrics.psnr(model(y), x)
    drops = {}
    for preserve in (True, False):
        result = fa.DenoisingPGD(model, eps=5 / 255, steps=5, preserve_noise=preserve, sigma=SIGMA).run(y, x)
        with torch.no_grad():
            drops[preserve] = (before - fa.metrics.psnr(model(result.adversarial), x)).mean().item()
        if preserve:
            inside(result.adversarial, y, x, 5 / 255)
            gap = result.noise_after.typicality - result.noise_before.typicality
            assert gap.abs().max() < 1e-4
        else:
            assert (result.noise_after.typicality > 0.03).all()  # the free attack leaves the typical set
    assert drops[True] > 1.5
    assert drops[False] > drops[True]


@needs_shared
@pytest.mark.parametrize(("preserve", "least"), [(True, 1.2), (False, 1.7)])
def test_denoising_pgd_on_the_published_dncnn(preserve, least):
    """Two crops of Set12 in six steps; the whole set in ten is the command of the README: 2.0 and 2.7 dB at least."""
    model = fa.models.load("dncnn", weights=SHARED / "weights" / "kair_dncnn_25.pth", sigma=25)
    x = torch.stack([read_image(SHARED / "data" / "set12" / f"0{k}.png", 1)[:, 64:160, 64:160] for k in (1, 7)])
    y = noisy(x)
    adv = fa.DenoisingPGD(model, eps=5 / 255, steps=6, preserve_noise=preserve)(y, x)
    with torch.no_grad():
        drop = (fa.metrics.psnr(model(y), x) - fa.metrics.psnr(model(adv), x)).mean().item()
    assert drop >= least
    if preserve:
        inside(adv, y, x, 5 / 255)


def test_classification_with_the_same_classes():
    torch.manual_seed(0)
    x = torch.rand(64, 1, 6, 6)
    labels = (x[:, 0, 0, 0] > x[:, 0, 5, 5]).long()
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    optimiser = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(200):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimiser.step()
    assert (model(x).argmax(1) == labels).float().mean() > 0.9
    for norm, eps in (("linf", 0.15), ("l2", 0.6)):
        options = {"objective": fa.objectives.cross_entropy, "bounds": (0, 1), "eps": eps, "norm": norm}
        adv = fa.PGD(model, **options)(x, labels)
        assert (model(adv).argmax(1) == labels).float().mean() < 0.3
        assert adv.min() >= 0
        assert adv.max() <= 1
        towards = fa.PGD(model, targeted=True, **options)(x, 1 - labels)
        assert (model(towards).argmax(1) == labels).float().mean() < 0.3


def test_objectives_against_numpy():
    import numpy as np

    a, b = torch.rand(3, 2, 4, 4), torch.rand(3, 2, 4, 4)
    d = (a - b).double().numpy().reshape(3, -1)
    assert np.allclose(fa.objectives.mse(a, b), (d**2).mean(1))
    assert np.allclose(fa.objectives.mae(a, b), np.abs(d).mean(1))
    logits, labels = torch.randn(3, 5, 2, 2), torch.randint(0, 5, (3, 2, 2))
    e = np.exp(logits.double().numpy())
    p = e / e.sum(1, keepdims=True)
    want = -np.log(np.take_along_axis(p, labels.numpy()[:, None], 1)[:, 0]).reshape(3, -1).mean(1)
    assert np.allclose(fa.objectives.cross_entropy(logits, labels), want, rtol=1e-5)
    with pytest.raises(ValueError, match="target: wanted integer labels"):
        fa.objectives.cross_entropy(logits, torch.rand(3, 5, 2, 2))


@pytest.mark.parametrize("as_module", [True, False])
def test_with_sigma(as_module):
    class Shrink(nn.Module):
        def forward(self, y, sigma):
            return y * (1 - sigma)

    inner = Shrink()
    model = fa.with_sigma(inner if as_module else (lambda y, s: inner(y, s)), 0.1)
    y, x = noisy(torch.rand(2, 1, 8, 8)), torch.rand(2, 1, 8, 8)
    assert torch.allclose(model(y), 0.9 * y)
    inner.train()
    fa.DenoisingPGD(model, eps=0.02, steps=2)(y, x)
    assert inner.training


def test_options_that_exclude_each_other():
    with pytest.raises(ValueError, match="bounds"):
        fa.DenoisingPGD(lambda y: y, bounds=(0, 1))
    y = torch.rand(1, 1, 4, 4)
    with pytest.raises(ValueError, match="mask"):
        fa.DenoisingPGD(lambda v: v).run(y, y * 0.9, mask=y > 0.5)
    with pytest.raises(TypeError, match="target"):
        fa.DenoisingPGD(lambda v: v)(y, None)
    with pytest.raises(ValueError, match="target: wanted"):
        fa.DenoisingPGD(lambda v: v)(y, y[..., :3])
    with pytest.raises(TypeError, match="model"):
        fa.PGD("resnet", eps=0.1)
    assert "DenoisingPGD" in repr(fa.DenoisingPGD(lambda v: v))


def test_obsatk_reaches_the_optimum_of_a_linear_model():
    """D(y) = a y: the best zero-mean perturbation is the error without its mean, at the radius."""
    g = torch.Generator().manual_seed(1)
    x, y = torch.rand(3, 1, 12, 13, generator=g), torch.rand(3, 1, 12, 13, generator=g)
    error = (1.5 * y.double() - x.double()).flatten(1)
    centred = error - error.mean(1, keepdim=True)
    best = 1.5 * 0.4 * centred / centred.norm(dim=1, keepdim=True)
    want = (error + best).square().mean(1)
    result = fa.ObsAtk(lambda v: 1.5 * v, eps=0.4, steps=60, step=0.1).run(y, x)
    delta = (result.adversarial.double() - y.double()).flatten(1)
    assert delta.norm(dim=1).max() <= 0.4
    assert delta.mean(1).abs().max() < 1e-7
    assert torch.allclose(result.loss, want, rtol=1e-4)
    start = fa.ObsAtk(lambda v: 0 * v.sum() + v * 0 + x, eps=0.4, steps=1)(y, x)  # no gradient: the random start itself
    assert (start - y).flatten(1).norm(dim=1).min() > 0.1
    assert (start - y).double().flatten(1).mean(1).abs().max() < 1e-7


def test_zero_mean_goes_with_l2_alone():
    from fastattack.threat import Threat

    for options in ({"norm": "linf"}, {"norm": "l2", "bounds": (0, 1)}, {"norm": "l2", "preserve_noise": True}):
        with pytest.raises(ValueError, match=r"zero_mean|bounds"):
            Threat(eps=1.0, zero_mean=True, **options)
    x = torch.rand(1, 1, 4, 4)
    with pytest.raises(ValueError, match="mask"):
        fa.ObsAtk(lambda v: v, eps=0.1).run(x, x + 0.1, mask=torch.ones(1, 1, 4, 4))


@pytest.mark.parametrize("attack", [fa.PGD, partial(fa.DenoisingPGD, preserve_noise=False)])
def test_the_default_step_is_two_and_a_half_radii_over_the_steps(attack):
    seen: list[float] = []

    def model(x):
        seen.append(float(x.detach().max()))
        return x

    x = torch.zeros(1, 4, dtype=torch.float64)
    found = attack(model, objective=lambda out, _: out.sum(1), eps=0.1, steps=4, random_start=False)(x, None)
    assert seen == pytest.approx([0.0, 0.0625, 0.1, 0.1, 0.1])
    assert torch.allclose(found, x + 0.1)
