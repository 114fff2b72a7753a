"""Strategies: what they make of a batch, and what they leave alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastattack import DenoisingPGD
from fastattack import training as t
from tests.test_training import SIGMA, Moody, every_strategy, images, same, snapshot, strategy


@pytest.fixture
def clean() -> Tensor:
    return torch.stack(images(*[(12, 10)] * 4))


@every_strategy
def test_a_strategy_leaves_everything_as_found(name, clean):
    model = Moody().train()
    model.inner[1].eval()
    for p in model.inner.parameters():
        p.grad = torch.ones_like(p)
    before, kept = snapshot(model), clean.clone()
    inputs, targets = strategy(name)(model, clean)
    copies = 2 if name == "hat" else 1
    assert inputs.shape == targets.shape == (4 * copies, 1, 12, 10)
    assert not inputs.requires_grad
    assert torch.equal(targets, torch.cat([clean] * copies))
    assert torch.equal(clean, kept)
    assert same(before, snapshot(model))


@every_strategy
def test_a_strategy_goes_on_where_its_state_was_taken(name, clean):
    model, first, second, other = Moody(), strategy(name), strategy(name), strategy(name, seed=1)
    one = [first(model, clean)[0] for _ in range(2)]
    state = first.state_dict()
    one.append(first(model, clean)[0])
    second.load_state_dict(state)
    assert torch.equal(second(model, clean)[0], one[2])
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(other(model, clean)[0], one[0])
    with pytest.raises(ValueError, match="seed"):
        other.load_state_dict(state)


@every_strategy
def test_sample_ids_and_epoch_name_the_numbers(name, clean):
    model, s = Moody().eval(), strategy(name)
    ids = torch.tensor([5, 2, 9, 7])
    whole = s(model, clean, sample_ids=ids, epoch=3)[0][:4]
    part = s(model, clean[1:3], sample_ids=ids[1:3], epoch=3)[0][:2]
    assert torch.allclose(whole[1:3], part, atol=1e-6)
    assert not torch.allclose(whole, s(model, clean, sample_ids=ids, epoch=4)[0][:4], atol=1e-3)


def test_adversarial_training_attacks_the_weights_of_now(clean):
    model, s = Moody().eval(), strategy("pgd")
    seed, ids = s.sampler.key(4, epoch=0)
    noisy = s.sampler(clean, sample_ids=ids, epoch=0)
    for _ in range(2):
        inputs, _ = s(model, clean, sample_ids=ids, epoch=0)
        expected = DenoisingPGD(model, eps=5 / 255, steps=2, step=5 / 255, seed=seed)(noisy, clean, sample_ids=ids)
        assert torch.equal(inputs, expected)
        assert (inputs - noisy).abs().max() <= 5 / 255
        assert ((model(inputs) - clean).square().mean() > (model(noisy) - clean).square().mean()).item()
        before = inputs
        with torch.no_grad():
            model.outer.weight.neg_()
    assert not torch.equal(before, s.sampler(clean, sample_ids=ids, epoch=0))
    first = s(model, clean, sample_ids=ids, epoch=0)[0]
    assert not torch.equal(first, before)


def test_hat_is_half_plain_and_half_attacked_within_its_root_mean_square(clean):
    model = Moody().eval()
    ids = torch.arange(4)
    inputs, _ = t.hat(sigma=SIGMA, eps=0.02, steps=3)(model, clean, sample_ids=ids, epoch=1)
    noisy, _ = t.plain(sigma=SIGMA)(model, clean, sample_ids=ids, epoch=1)
    assert torch.equal(inputs[:4], noisy)
    rms = (inputs[4:] - noisy).square().flatten(1).mean(1).sqrt()
    assert ((rms > 0.015) & (rms <= 0.02 * (1 + 1e-5))).all()
    assert (model(inputs[4:]) - clean).square().mean() > (model(noisy) - clean).square().mean()


def test_the_attack_runs_under_the_callers_autocast_and_the_noise_does_not(clean):
    model, seen = Moody().eval(), []
    model.outer.register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    s = t.hat(sigma=SIGMA, steps=2)
    plain_inputs = s(model, clean, sample_ids=range(4))[0]
    assert set(seen) == {torch.float32}
    seen.clear()
    with torch.autocast("cpu", torch.bfloat16):
        inputs, _ = s(model, clean, sample_ids=range(4))
    assert set(seen) == {torch.bfloat16}
    assert inputs.dtype == torch.float32
    assert torch.equal(inputs[:4], plain_inputs[:4])


@every_strategy
def test_an_empty_batch_gives_an_empty_batch(name, clean):
    s = strategy(name)
    for images_ in s(Moody(), clean[:0]):
        assert images_.shape == (0, 1, 12, 10)
        assert images_.dtype == clean.dtype
    assert s.state_dict()["step"] == 1


def test_factories_refuse_what_cannot_be():
    for build, word in (
        (lambda: t.plain(sigma=-1.0), "sigma"),
        (lambda: t.ts("sampler"), "sampler"),  # type: ignore[arg-type]
        (lambda: t.pgd(sigma=0.1, steps=0), "steps"),
        (lambda: t.hat(sigma=0.1, eps=-1.0), "eps"),
        (lambda: t.plain(sigma=0.1, seed=-1), "seed"),
    ):
        with pytest.raises((ValueError, TypeError), match=word):
            build()
