"""VMI-, VNI- and SI-NI-FGSM against the loops of their papers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import fastattack as fa

from .test_transfer import gradient, pair

EPS, STEPS, STEP = 0.03, 4, 0.01
WIDE = (-1, 1, 1, 1)


class Recorder(nn.Module):
    """A small smooth denoiser that remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)
        self.double()
        self.seen: list[np.ndarray] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x.detach().numpy().copy())
        return self.last(self.first(3 * x).tanh())


@pytest.fixture
def model() -> Recorder:
    return Recorder().eval()


def inside(x: np.ndarray, origin: np.ndarray) -> np.ndarray:
    return np.clip(x, origin - EPS, origin + EPS)


def normed(grad: np.ndarray) -> np.ndarray:
    return grad / np.abs(grad).mean((1, 2, 3)).reshape(WIDE)


@pytest.mark.parametrize("kind", [fa.VMIFGSM, fa.VNIFGSM])
def test_the_variance_of_the_neighbours_that_were_asked(model, kind):
    y, clean = pair()
    count, spread, decay = 3, 2.0, 0.8
    attack = kind(model, eps=EPS, steps=STEPS, step=STEP, decay=decay, neighbours=count, spread=spread, seed=4, chunk=3)
    got = attack(y, clean).numpy()
    asked = [x for x in model.seen if x.shape == y.shape][-STEPS * (count + 1) :]
    origin = adv = y.numpy()
    momentum = variance = np.zeros_like(origin)
    for step in range(STEPS):
        look = adv if kind is fa.VMIFGSM else inside(adv + STEP * decay * momentum, origin)
        here, *near = asked[step * (count + 1) : (step + 1) * (count + 1)]
        np.testing.assert_allclose(here, look, atol=1e-12)
        assert all(0.5 * spread * EPS < np.abs(x - adv).max() <= spread * EPS * (1 + 1e-12) for x in near)
        assert not np.array_equal(near[0], near[1])
        grad = gradient(model, look, clean)
        momentum = decay * momentum + normed(grad + variance)
        variance = sum(gradient(model, x, clean) for x in near) / count - grad
        adv = inside(adv + STEP * np.sign(momentum), origin)
    np.testing.assert_allclose(got, adv, atol=1e-9)


def test_neighbours_differ_between_steps_samples_and_seeds(model):
    y, clean = pair()
    draws = []
    for seed in (1, 2):
        model.seen.clear()
        fa.VMIFGSM(model, eps=EPS, steps=2, step=1e-9, neighbours=1, seed=seed)(y, clean)
        draws += [(x - y.numpy()).round(6) for x in model.seen if np.abs(x - y.numpy()).max() > 1e-6]
    noises = [draw[i].tobytes() for draw in draws for i in range(len(y))]
    assert len(noises) >= 12
    assert len(set(noises)) == len(noises)


def test_a_constant_gradient_has_no_variance(model):
    linear = nn.Sequential(nn.Flatten(), nn.Linear(81, 1, dtype=torch.float64))
    y, _ = pair()

    def total(output: torch.Tensor, target: object) -> torch.Tensor:
        return output.sum(1)

    plain = fa.MIFGSM(linear, objective=total, eps=EPS, steps=3)(y, None)
    assert torch.equal(fa.VMIFGSM(linear, objective=total, eps=EPS, steps=3, neighbours=2)(y, None), plain)


def test_scaled_copies_against_the_loop_of_the_paper(model):
    y, clean = pair()
    decay, copies = 0.9, 3
    got = fa.SINIFGSM(model, eps=EPS, steps=STEPS, step=STEP, decay=decay, copies=copies)(y, clean).numpy()
    origin = adv = y.numpy()
    momentum = np.zeros_like(origin)
    for _ in range(STEPS):
        look = inside(adv + STEP * decay * momentum, origin)
        grad = sum(gradient(model, look / 2**i, clean) / 2**i for i in range(copies)) / copies
        momentum = decay * momentum + normed(grad)
        adv = inside(adv + STEP * np.sign(momentum), origin)
    np.testing.assert_allclose(got, adv, atol=1e-9)


@pytest.mark.parametrize("kind", [fa.VMIFGSM, fa.VNIFGSM, fa.SINIFGSM])
def test_micro_batches_and_early_ends_change_nothing(model, kind):
    y, clean = pair()
    options = {"eps": EPS, "steps": 3, "keep": "best"}
    whole = kind(model, **options).run(y, clean)
    assert torch.equal(kind(model, max_batch=2, **options).run(y, clean).adversarial, whole.adversarial)
    again = kind(model, restarts=2, random_start=True, **options).run(y, clean)
    assert bool((again.loss > 0).all())
    level = float(whole.loss.median())
    ended = kind(model, threshold=level, stop="success", **options).run(y, clean)
    assert torch.equal(ended.success, whole.loss > level)


class Root(nn.Module):
    """Has no numbers for pixels below 0, nor a slope at 0."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sqrt()


def test_numbers_that_are_none_beside_the_iterate_are_told():
    x = torch.full((2, 1, 4, 4), 0.01, dtype=torch.float64)
    x[0] = 0.5
    with pytest.raises(fa.NonFiniteError, match="step 0 for sample 1"):
        fa.VMIFGSM(Root(), eps=0.05, steps=2, step=1e-3, neighbours=3, bounds=(0.0, 1.0))(x, torch.ones_like(x))


def test_numbers_that_are_none_for_a_fainter_copy_are_told():
    x = torch.full((2, 1, 4, 4), 0.6, dtype=torch.float64)
    x[0] = 0.9
    shifted = nn.Sequential(Root())
    shifted.forward = lambda v: (v - 0.4).sqrt()
    with pytest.raises(fa.NonFiniteError, match="step 0 for sample"):
        fa.SINIFGSM(shifted, eps=0.01, steps=2, step=1e-3, copies=2)(x, torch.ones_like(x))


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (fa.VMIFGSM, {"neighbours": 0}, "neighbours: wanted a whole number >= 1, got 0"),
        (fa.VMIFGSM, {"spread": 0.0}, "spread: wanted"),
        (fa.VNIFGSM, {"norm": "l2"}, "norm: wanted 'linf' for VNIFGSM"),
        (fa.SINIFGSM, {"copies": True}, "copies: wanted"),
    ],
)
def test_bad_options_are_named(model, kind, options, words):
    with pytest.raises(ValueError, match=words):
        kind(model, eps=EPS, **options)
