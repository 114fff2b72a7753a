"""Strategies: what they make of a batch, and what they leave alone."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from fastattack import DenoisingPGD
from fastattack import training as t
from tests.strategy_checks import (
    goes_on_where_its_state_was_taken,
    leaves_everything_as_found,
    sample_ids_and_epoch_name_the_numbers,
)
from tests.test_training import SIGMA, Moody, every_strategy, images, strategy


@pytest.fixture
def clean() -> Tensor:
    return torch.stack(images(*[(12, 10)] * 4))


@every_strategy
def test_a_strategy_leaves_everything_as_found(name, clean):
    leaves_everything_as_found(strategy(name), clean, copies=2 if name == "hat" else 1)


@every_strategy
def test_a_strategy_goes_on_where_its_state_was_taken(name, clean):
    goes_on_where_its_state_was_taken(functools.partial(strategy, name), Moody(), clean)


@every_strategy
def test_sample_ids_and_epoch_name_the_numbers(name, clean):
    sample_ids_and_epoch_name_the_numbers(strategy(name), clean)


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
