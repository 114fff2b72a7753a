"""The share of pixels that a step in l1 moves: one for each sample, whatever the batch is cut into."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import fastattack as fa

SHARES = torch.tensor([0.02, 0.1, 0.5, 1.0], dtype=torch.float64)
ATTACKS = {"PGD": fa.PGD, "APGD": fa.APGD}


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 1, 3, padding=1)).double()


def pair() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.rand(2, 4, 1, 12, 12, generator=g, dtype=torch.float64).unbind()


def alone(attack: type, model: nn.Module, i: int, eps: float = 2.0, **options: object) -> Tensor:
    x, y = pair()
    found = attack(model, eps=eps, norm="l1", sparsity=SHARES[i].item(), **options)
    return found.run(x[i : i + 1], y[i : i + 1], sample_ids=torch.tensor([i])).adversarial


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("size", [1, 2, 3, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_sample_has_its_own(model, attack, size, dtype):
    x, y = pair()
    found = ATTACKS[attack](model, eps=2.0, norm="l1", sparsity=SHARES.to(dtype), max_batch=size)(x, y)
    for i in range(4):
        assert torch.allclose(found[i : i + 1], alone(ATTACKS[attack], model, i), atol=1e-9)
    moved = (found != x).flatten(1).sum(1)
    assert moved[0] < moved[3] or attack == "APGD"


@pytest.mark.parametrize("attack", ATTACKS)
def test_those_that_go_on_keep_theirs(model, attack):
    x, y = pair()
    ends = {"stop": "converged", "patience": 2, "tolerance": 3e-3, "steps": 16}
    radii = torch.tensor([0.001, 0.1, 1.0, 10.0])
    found = ATTACKS[attack](model, eps=radii, norm="l1", sparsity=SHARES, **ends).run(x, y)
    assert len(set(found.steps_used.tolist())) > 1
    for i in range(4):
        want = alone(ATTACKS[attack], model, i, radii[i].item(), **ends)
        assert torch.allclose(found.adversarial[i : i + 1], want, atol=1e-9)


def test_a_whole_number_is_a_number(model):
    x, y = pair()
    one = fa.PGD(model, eps=2.0, norm="l1", sparsity=1)(x, y)
    assert torch.equal(one, fa.PGD(model, eps=2.0, norm="l1", sparsity=1.0)(x, y))
    assert torch.equal(one, fa.PGD(model, eps=2.0, norm="l1", sparsity=torch.tensor(1.0))(x, y))


@pytest.mark.parametrize(
    "share", [0, 1.5, math.nan, True, "all", torch.tensor([0.1, 0.1, math.nan, 0.1]), torch.tensor([0.1, 2.0, 0.1, 1]),
              torch.tensor([0.1, 0.0, 0.1, 1]), torch.tensor([0.1]), torch.ones(2), torch.ones(4, 1), torch.ones(5)],
)  # fmt: skip
def test_bad_shares_are_named(model, share):
    with pytest.raises((ValueError, TypeError), match="sparsity: wanted"):
        fa.PGD(model, eps=2.0, norm="l1", sparsity=share)(*pair())


def test_other_norms_have_none(model):
    for attack in ATTACKS.values():
        with pytest.raises(ValueError, match="sparsity: wanted norm='l1'"):
            attack(model, eps=2.0, sparsity=0.1)
        attack(model, eps=2.0)
