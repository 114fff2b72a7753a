"""SegPGD, CosPGD, feature- and LPIPS-guided attacks: against loops written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fastattack as fa


@pytest.fixture
def segmenter() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 4, 3, padding=1)).double()


def scene(model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(2, 1, 7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return x, model(x).argmax(1)


def climbed(x: torch.Tensor, eps: float, steps: int, loss_at) -> torch.Tensor:
    adv = x.clone()
    for step in range(steps):
        probe = adv.clone().requires_grad_()
        (grad,) = torch.autograd.grad(loss_at(probe, step), probe)
        adv = (adv + 2.5 * eps / steps * grad.sign()).clamp(x - eps, x + eps)
    return adv


def test_segpgd_against_the_paper(segmenter):
    x, labels = scene(segmenter)
    steps = 5

    def loss_at(probe: torch.Tensor, step: int) -> torch.Tensor:
        logits = segmenter(probe)
        each = nn.functional.cross_entropy(logits, labels, reduction="none")
        weight = step / (2 * steps)
        return torch.where(logits.argmax(1) == labels, (1 - weight) * each, weight * each).mean((1, 2)).sum()

    got = fa.SegPGD(segmenter, eps=0.2, steps=steps, random_start=False)(x, labels)
    assert torch.allclose(got, climbed(x, 0.2, steps, loss_at), atol=1e-6)
    assert (segmenter(got).argmax(1) != labels).double().mean() > 0.3


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_cospgd_against_the_paper(segmenter, activation):
    x, labels = scene(segmenter)

    def loss_at(probe: torch.Tensor, step: int) -> torch.Tensor:
        logits = segmenter(probe)
        active = logits.softmax(1) if activation == "softmax" else logits.sigmoid()
        hot = nn.functional.one_hot(labels, 4).movedim(-1, 1).double()
        weight = nn.functional.cosine_similarity(active, hot, dim=1).detach()
        return (weight * nn.functional.cross_entropy(logits, labels, reduction="none")).mean((1, 2)).sum()

    got = fa.CosPGD(segmenter, eps=0.2, steps=5, activation=activation, random_start=False)(x, labels)
    assert torch.allclose(got, climbed(x, 0.2, 5, loss_at), atol=1e-6)


def test_features_and_lpips_are_pgd_on_their_distance(tmp_path):
    torch.manual_seed(0)
    model, net = nn.Conv2d(3, 3, 3, padding=1), nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU())
    clean = torch.rand(2, 3, 16, 16)
    noisy = clean + 0.1 * torch.randn_like(clean)
    attack = fa.FeaturePGD(model, net=net, eps=0.05, steps=5)
    result = attack.run(noisy, clean)
    same = fa.PGD(model, objective=fa.objectives.features(net), eps=0.05, steps=5)(noisy, clean)
    assert torch.equal(result.adversarial, same)
    with torch.no_grad():
        distance = (net(model(noisy)) - net(clean)).square().flatten(1).mean(1)
    assert (result.loss > distance * 1.05).all()
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    torch.save({"lin0.model.1.weight": torch.rand(1, 5, 1, 1)}, tmp_path / "lin.pth")
    options = {"weights": tmp_path / "lin.pth", "net": lambda v: [net(v)], "eps": 0.05, "steps": 5}
    away, near = (fa.LPIPSAttack(model, **options, targeted=t).run(noisy, clean).loss for t in (False, True))
    assert (away > near).all()


@pytest.mark.parametrize("make", [fa.SegPGD, fa.CosPGD])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": "best"}, "keep: wanted"),
        ({"restarts": 2}, "restarts: wanted"),
        ({"objective": abs}, "objective has no"),
    ],
)
def test_options_without_meaning(make, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make(abs, eps=0.1, **options)


def test_objectives_of_guided_attacks_are_their_own(tmp_path):
    for make, options in ((fa.FeaturePGD, {"net": abs}), (fa.LPIPSAttack, {"weights": tmp_path, "net": abs})):
        with pytest.raises(TypeError, match="objective has no place"):
            make(abs, eps=0.1, objective=fa.objectives.mse, **options)
