"""The features of a fixed target: made once in an attack, and never stale."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fastattack as fa
from fastattack.objectives.perceptual import remembering


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.register_buffer("shift", torch.zeros(()))
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.conv(x) + self.shift


@pytest.fixture
def net() -> Counting:
    torch.manual_seed(0)
    return Counting()


def test_an_attack_makes_the_features_of_its_target_once(net):
    y, clean = torch.rand(3, 1, 8, 8), torch.rand(3, 1, 8, 8)
    model = lambda v: v * 1.0  # noqa: E731
    attack = fa.PGD(model, eps=0.1, steps=4, objective=fa.objectives.features(net), random_start=False)
    result = attack.run(y, clean)
    assert net.calls == 5 + 1  # four gradients and the last loss, and once the target
    adv = y
    for _ in range(4):
        adv = adv.detach().requires_grad_()
        (net(adv) - net(clean)).square().flatten(1).mean(1).sum().backward()
        adv = torch.minimum(torch.maximum(adv + 0.05 * adv.grad.sign(), y - 0.1), y + 0.1)
    assert torch.allclose(result.adversarial, adv, atol=1e-6)
    parts = fa.PGD(model, eps=0.1, steps=4, objective=attack.objective, random_start=False, max_batch=2)
    assert torch.allclose(parts(y, clean), adv.detach(), atol=1e-6)
    clean.mul_(0.5)  # the same tensor with other numbers
    want = fa.PGD(model, eps=0.1, steps=4, objective=fa.objectives.features(net), random_start=False)(y, clean.clone())
    assert torch.equal(attack(y, clean), want)


def test_lpips_places_its_constants_once(tmp_path, monkeypatch):
    path = tmp_path / "lin.pth"
    torch.save({"lin0.model.1.weight": torch.rand(1, 3, 1, 1)}, path)
    objective = fa.objectives.lpips(path, net=lambda t: [t])
    x, target = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    with torch.inference_mode():  # what is made here must do for autograd too
        first = objective(x, target)
    made = []
    real = torch.tensor
    monkeypatch.setattr(torch, "tensor", lambda *a, **k: (made.append(a), real(*a, **k))[1])
    leaf = x.clone().requires_grad_()
    loss = objective(leaf, target)
    loss.sum().backward()
    assert torch.equal(loss.detach(), first)
    assert leaf.grad.isfinite().all()
    assert not made


def test_outside_an_attack_nothing_is_remembered(net):
    objective, x = fa.objectives.features(net), torch.rand(2, 1, 8, 8)
    target = torch.rand(2, 1, 8, 8)
    objective(x, target)
    objective(x, target)
    assert net.calls == 4


def write_target(net: Counting, target: torch.Tensor) -> None:
    target.mul_(0.5)


def write_weight(net: Counting, target: torch.Tensor) -> None:
    with torch.no_grad():
        net.conv.weight.mul_(0.5)


def write_buffer(net: Counting, target: torch.Tensor) -> None:
    net.shift.add_(1)


def swap_weight(net: Counting, target: torch.Tensor) -> None:
    net.conv.weight = nn.Parameter(net.conv.weight.detach() * 0.5)


@pytest.mark.parametrize("change", [write_target, write_weight, write_buffer, swap_weight])
def test_what_changes_is_seen(net, change):
    objective, x, target = fa.objectives.features(net), torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)
    with remembering():
        first = objective(x, target)
        assert torch.equal(objective(x, target), first)
        assert net.calls == 3
        change(net, target)
        got = objective(x, target)
    assert torch.equal(got, objective(x, target))
    if change is not write_buffer:  # which moves both
        assert not torch.equal(got, first)
    assert net.calls == 3 + 2 + 2


def test_other_precision_and_other_targets_are_other_features(net):
    objective, x, target = fa.objectives.features(net), torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)
    with remembering():
        objective(x, target)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = objective(x, target)
            calls = net.calls
        assert calls == 4
        objective(x, target.clone())
        assert net.calls == 6
        with torch.inference_mode():
            hidden = target.clone()
            objective(x, hidden)
            objective(x, hidden)
        assert net.calls == 10
        other = fa.objectives.features(net, distance="cosine")
        assert not torch.equal(other(x, target), objective(x, target))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(objective(x, target), rough)
