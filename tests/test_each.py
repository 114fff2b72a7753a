"""attack_each: stacked or in turns, the same as one by one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fastattack as fa


def nets(count: int = 3) -> list[nn.Module]:
    torch.manual_seed(0)
    return [
        nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1))
        for _ in range(count)
    ]


def pair(batch: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    clean = torch.rand(batch, 1, 8, 8, generator=g)
    return clean + 0.1 * torch.randn(clean.shape, generator=g), clean


@pytest.mark.parametrize("how", ["turns", "stacked", "auto"])
def test_the_same_as_one_by_one(how):
    models, (y, clean) = nets(), pair()
    eps = torch.tensor([0.01, 0.02, 0.03, 0.04])
    mask = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(2)) > 0.3

    def make(model: object) -> fa.PGD:
        return fa.PGD(model, eps=eps, steps=10, seed=3, max_batch=2)

    found = fa.attack_each(dict(zip("abc", models, strict=True)), y, clean, attack=make, how=how, mask=mask)
    assert list(found.results) == ["a", "b", "c"]
    assert found.how == how or how == "auto"
    assert set(found.probed) == ({"turns", "stacked"} if how == "auto" else set())
    for model, result in zip(models, found.results.values(), strict=True):
        want = make(model).run(y, clean, mask=mask)
        # a gradient next to zero may have another sign under another order of sums
        assert ((result.adversarial - want.adversarial).abs() < 1e-5).double().mean() > 0.99
        assert torch.allclose(result.loss, want.loss, rtol=1e-3)
        assert torch.equal(result.adversarial[~mask], y[~mask])
        assert torch.allclose(result.noise_before.l2, want.noise_before.l2)
        assert result.steps_used.tolist() == [10] * 4
    assert all(m.training and p.requires_grad for m in models for p in m.parameters())


def test_models_stay_as_they_were_and_are_numbered():
    models, (y, clean) = nets(2), pair(2)
    before = [t.clone() for m in models for t in m.state_dict().values()]
    found = fa.attack_each(models, y, clean, attack=lambda m: fa.PGD(m, eps=0.02, steps=2), how="stacked")
    assert list(found.results) == [0, 1]
    assert all(
        torch.equal(a, b) for a, b in zip(before, (t for m in models for t in m.state_dict().values()), strict=True)
    )
    assert all(m.training for m in models)


@pytest.mark.parametrize(
    ("models", "options", "attack", "message"),
    [
        ([], {}, {}, "at least one model"),
        (nets(1), {"how": "rows"}, {}, "how: wanted one of"),
        ([nets(1)[0], nn.Conv2d(1, 1, 1)], {"how": "stacked"}, {}, "differ in architecture"),
        ([nets(1)[0], abs], {"how": "stacked"}, {}, "nn.Module"),
        (nets(2), {"how": "stacked"}, {"stop": "converged"}, "stop="),
        (nets(2), {"how": "stacked"}, {"eval_mode": False}, "eval_mode"),
    ],
)
def test_what_cannot_be(models, options, attack, message):
    y, clean = pair(2)
    with pytest.raises(ValueError, match=message):
        fa.attack_each(models, y, clean, attack=lambda m: fa.PGD(m, eps=0.02, steps=2, **attack), **options)


def test_models_that_cannot_be_stacked_go_in_turns():
    y, clean = pair(2)
    found = fa.attack_each([abs, torch.tanh], y, clean, attack=lambda m: fa.PGD(m, eps=0.02, steps=12))
    assert found.how == "turns"
    assert found.probed == {}
