"""Several models, one perturbation: losses and gradients against autograd on all of them at once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fastattack as fa
from fastattack.engine import Ensemble, Moment, Single
from fastattack.ops import resolve


@pytest.fixture
def models() -> list[nn.Module]:
    torch.manual_seed(0)
    return [
        nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 1, 3, padding=1)).double()
        for _ in range(3)
    ]


def pair(batch: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    clean = torch.rand(batch, 1, 8, 8, generator=g, dtype=torch.float64)
    return clean + 0.1 * torch.randn(clean.shape, generator=g, dtype=torch.float64), clean


def combined(how: object, models: list[nn.Module], x: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    outputs = [m(x) for m in models]
    losses = torch.stack([((o - clean) ** 2).flatten(1).mean(1) for o in outputs])
    if how == "max":
        return losses.amax(0)
    if how == "min":
        return losses.amin(0)
    if how == "softmax":
        return (losses * losses.detach().softmax(0)).sum(0)
    if how == "logits":
        return ((torch.stack(outputs).mean(0) - clean) ** 2).flatten(1).mean(1)
    weights = [1 / 3] * 3 if how == "mean" else how
    return sum(w * loss for w, loss in zip(weights, losses, strict=True))


@pytest.mark.parametrize("how", ["mean", "max", "min", "softmax", "logits", (0.5, 0.0, 2.0)])
def test_loss_and_gradient(models, how):
    y, clean = pair()
    table = resolve(torch.device("cpu"), "auto")
    kind, weights = (how, None) if isinstance(how, str) else ("mean", how)
    source = Ensemble([Single(m) for m in models], kind, weights, table)
    loss, grad = source.gradient(y, clean, fa.objectives.mse, Moment(0, 0))
    x = y.clone().requires_grad_()
    want = combined(how, models, x, clean)
    (want_grad,) = torch.autograd.grad(want.sum(), x)
    assert torch.allclose(loss, want.double(), rtol=1e-12)
    assert torch.allclose(grad, want_grad, rtol=1e-9, atol=1e-15)
    with torch.no_grad():
        assert torch.allclose(source.value(y, clean, fa.objectives.mse, Moment(0, 0)), want, rtol=1e-12)


def test_a_model_of_weight_zero_does_not_matter(models):
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * float("inf")

    y, clean = pair()
    both = fa.PGD([models[0], models[1]], ensemble=(1.0, 0.0), eps=0.03, steps=3)(y, clean)
    assert torch.allclose(both, fa.PGD(models[0], eps=0.03, steps=3)(y, clean), atol=1e-12)
    with pytest.raises(fa.NonFiniteError):
        fa.PGD([models[0], Broken()], eps=0.03, steps=3)(y, clean)


def test_names_order_and_one_model(models):
    y, clean = pair()
    options = {"eps": 0.03, "steps": 3}
    listed = fa.PGD(models, **options)(y, clean)
    assert torch.equal(listed, fa.PGD(dict(zip("abc", models, strict=True)), **options)(y, clean))
    assert torch.equal(fa.PGD([models[0]], **options)(y, clean), fa.PGD(models[0], **options)(y, clean))
    parts = fa.PGD(models, **options, max_batch=3, ensemble="max")(y, clean)
    assert torch.allclose(parts, fa.PGD(models, **options, ensemble="max")(y, clean), atol=1e-12)


@pytest.mark.parametrize("how", ["mean", "max", "min", "softmax"])
def test_one_attack_on_all_is_not_below_the_attacks_on_each(models, how):
    """Judged by its own measure: the combined loss at the perturbations that were made for one model."""
    y, clean = pair()
    joint = fa.PGD(models, ensemble=how, eps=0.05, steps=20).run(y, clean)
    with torch.no_grad():
        for model in models:
            single = fa.PGD(model, eps=0.05, steps=20)(y, clean)
            there = combined(how, models, single, clean)
            assert joint.loss.mean() >= there.mean() * (1 - 1e-3)


def test_all_models_are_left_as_found(models):
    y, clean = pair()
    for m in models:
        m.train()
        m[0].weight.requires_grad_(False)
    fa.PGD(models, eps=0.03, steps=2)(y, clean)
    assert all(m.training and not m[0].weight.requires_grad and m[2].weight.requires_grad for m in models)
    assert all(p.grad is None for m in models for p in m.parameters())


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ([], {}, "at least one model"),
        ({}, {}, "at least one model"),
        ([abs, 3], {}, "model: wanted something callable"),
        ([abs, abs], {"ensemble": "median"}, "ensemble: wanted one of"),
        ([abs, abs], {"ensemble": (1.0,)}, "ensemble: wanted 2 weights"),
        ([abs, abs], {"ensemble": (1.0, -1.0)}, "ensemble: wanted 2 weights"),
        ([abs, abs], {"ensemble": (0.0, 0.0)}, "ensemble: wanted 2 weights"),
    ],
)
def test_bad_ensembles_are_named(model, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        fa.PGD(model, eps=0.1, **options)


def test_outputs_that_differ_in_shape(models):
    y, clean = pair()
    with pytest.raises(ValueError, match="outputs of one shape"):
        fa.PGD(
            [models[0], lambda v: v[:, :, 1:]], eps=0.1, ensemble="logits", objective=lambda o, t: o.flatten(1).sum(1)
        )(y, clean)
    with pytest.raises(ValueError, match="output of the target's shape"):
        fa.PGD([models[0], lambda v: v[:, :, 1:]], eps=0.1)(y, clean)
