"""Attacks that begin where the caller says."""

from __future__ import annotations

import math

import pytest
import torch

import fastattack as fa
from tests.test_engine import Linear, total


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 12, generator=torch.Generator().manual_seed(3))


def offset(x: torch.Tensor, size: float) -> torch.Tensor:
    return x + size * torch.randn(x.shape, generator=torch.Generator().manual_seed(4)).sign()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_one_step_from_the_start_by_hand(images, norm):
    model, x = Linear(), images
    w, start = model.weight.detach().double()[0], offset(images, 0.02)

    def inside(delta: torch.Tensor) -> torch.Tensor:
        if norm == "linf":
            return delta.clamp(-0.025, 0.025)
        return delta * (0.025 / delta.norm(dim=1)).clamp(max=1)[:, None]

    step = 0.01 * (w.sign() if norm == "linf" else w / w.norm())
    wanted = x.double() + inside(inside(start.double() - x.double()) + step)
    attack = fa.PGD(model, objective=total, eps=0.025, step=0.01, steps=1, norm=norm, keep="last")
    found = attack.run(x, None, start=start).adversarial
    assert torch.allclose(found.double(), wanted, atol=1e-6)
    assert torch.equal(attack(x, None, start=start), found)


@pytest.mark.parametrize("split", [1, 2])
def test_micro_batches_and_samples_that_end_keep_their_starts(images, split):
    model, start = Linear(), offset(images, 0.02)
    options = {"objective": total, "eps": 0.03, "steps": 6, "step": 0.002}
    whole = fa.PGD(model, **options).run(images, None, start=start)
    assert torch.equal(fa.PGD(model, max_batch=split, **options).run(images, None, start=start).adversarial,
                       whole.adversarial)  # fmt: skip
    level = float(whole.loss.median())
    stopped = fa.PGD(model, threshold=level, stop="success", max_batch=split, **options).run(images, None, start=start)
    assert bool(stopped.success[whole.loss > level].all())


def test_later_restarts_begin_at_random_points(images):
    start = offset(images, 0.02)
    options = {"objective": total, "eps": 0.03, "steps": 1, "step": 1e-9, "seed": 5}
    one = fa.PGD(Linear(), **options).run(images, None, start=start)
    three = fa.PGD(Linear(), restarts=3, **options).run(images, None, start=start)
    assert bool((three.loss >= one.loss).all())
    assert set(three.best_restart.tolist()) - {0}, "some random start is better than this one"
    assert torch.allclose(one.adversarial, start, atol=1e-6)


def test_apgd_takes_a_start(images):
    start = offset(images, 0.02)
    found = fa.APGD(Linear(), objective=total, eps=0.03, steps=1, keep="last").run(images, None, start=start)
    assert torch.allclose(found.adversarial, start.clamp(images - 0.03, images + 0.03), atol=0.061)
    first = fa.APGD(Linear(), objective=total, eps=0.03, steps=1, step=1e-9, keep="last")
    assert torch.allclose(first.run(images, None, start=start).adversarial, start, atol=1e-6)


@pytest.mark.parametrize(
    ("start", "kind", "words"),
    [
        ([0.0], TypeError, "start: wanted a tensor like the input, or None, got list"),
        (torch.zeros(3, 11), ValueError, "start: wanted"),
        (torch.zeros(3, 12, dtype=torch.float64), ValueError, "start: wanted"),
        (torch.full((3, 12), math.nan), ValueError, "start: wanted finite numbers"),
    ],
)
def test_what_is_no_start_is_refused(images, start, kind, words):
    with pytest.raises(kind, match=words):
        fa.PGD(Linear(), objective=total, eps=0.03).run(images, None, start=start)


def test_attacks_that_choose_their_start_refuse_one():
    x = torch.rand(2, 1, 4, 4)
    with pytest.raises(ValueError, match="start: wanted None for an attack that chooses where it begins"):
        fa.Square(Linear(16), objective=total, eps=0.1, queries=4).run(x, None, start=x)
    with pytest.raises(ValueError, match="start: wanted None"):
        fa.FMN(Linear(16), objective=total, threshold=1.0, steps=3).run(x, None, start=x)
