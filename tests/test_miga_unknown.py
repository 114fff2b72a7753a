"""MIGA without a task model: what the critic beside it makes of the output, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastattack as fa
from fastattack.attacks import Mining
from fastattack.attacks.mining import Mined


class LeftMean(nn.Module):
    """A stand-in for the task: the mean of each row's left half, (B, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, z: Tensor) -> Tensor:
        return self.gain * z[..., :4].mean((1, 3))


def _images(count: int, seed: int) -> Tensor:
    """Rows of one brightness each, and texture."""
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, 8, 1, generator=draw).expand(-1, -1, -1, 8) * 0.8 + 0.2 * torch.rand(
        count, 1, 8, 8, generator=draw
    )


def _correlation(a: Tensor, b: Tensor) -> float:
    pair = torch.stack((a.flatten(), b.flatten())).double()
    return float(torch.corrcoef(pair)[0, 1])


@pytest.mark.parametrize("estimator", ["dv", "infonce", "nwj"])
def test_the_features_tell_less_and_nothing_else_moves(estimator: str) -> None:
    clean, bank = _images(16, 0), _images(64, 1)
    noisy = clean + 0.05 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    encoder = LeftMean()
    attack = fa.MIGA(
        nn.Identity(), eps=0.3, steps=15, encoder=encoder, bank=bank, perceptual=None, lambda_rec=0.1, lambda_com=0.1,
        estimator=Mining(estimator=estimator, warmup=60),
    )  # fmt: skip
    found = attack.run(noisy, clean)
    adv = found.adversarial
    assert bool(((adv - noisy).abs() <= 0.3).all())
    torch.testing.assert_close(adv[..., 4:], noisy[..., 4:], rtol=0, atol=0)  # no gradient comes from there
    with torch.no_grad():
        before, after = (_correlation(encoder(clean), encoder(images)) for images in (noisy, adv))
    assert before > 0.95
    assert after < 0.75
    assert set(found.best_step.tolist()) == {15}
    assert found.noise_before is not None  # the target is the clean images


def test_a_trunk_of_its_own_and_a_batch_of_one() -> None:
    clean, bank = _images(1, 0), _images(32, 1)
    noisy = clean + 0.05 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    state = torch.get_rng_state()
    attack = fa.MIGA(nn.Identity(), eps=0.1, steps=4, bank=bank, perceptual=None, lambda_rec=0.0, lambda_com=0.0)
    first, second = attack.run(noisy, clean), attack.run(noisy, clean)
    torch.testing.assert_close(first.adversarial, second.adversarial, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert float((first.adversarial - noisy).abs().max()) > 0.05
    other = fa.MIGA(nn.Identity(), eps=0.1, steps=4, bank=bank, perceptual=None, lambda_rec=0.0, lambda_com=0.0, seed=1)
    assert not torch.equal(other(noisy, clean), first.adversarial)


def test_the_critic_learns_on_what_the_attack_makes() -> None:
    """Without steps beside the attack the critic is another one from the second gradient on."""
    clean = _images(8, 0)
    noisy = clean + 0.05 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    options: dict[str, Any] = {"eps": 0.2, "steps": 6, "encoder": LeftMean(), "perceptual": None}
    fixed = fa.MIGA(nn.Identity(), estimator=Mining(critic_steps=0, lr=0.05), **options)
    moving = fa.MIGA(nn.Identity(), estimator=Mining(critic_steps=3, lr=0.05), **options)
    assert not torch.equal(fixed.run(noisy, clean).loss, moving.run(noisy, clean).loss)


def test_micro_batches_have_one_critic_each_and_the_bank_of_all(monkeypatch: Any) -> None:
    begun = []
    begin = Mined._begin

    def counted(self: Mined, meaning: Any, moment: Any) -> Any:
        begun.append((len(meaning.clean), meaning.place.tolist(), len(meaning.examples.clean)))
        return begin(self, meaning, moment)

    monkeypatch.setattr(Mined, "_begin", counted)
    clean = _images(6, 0)
    noisy = clean + 0.05 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    attack = fa.MIGA(nn.Identity(), eps=0.1, steps=2, encoder=LeftMean(), perceptual=None, max_batch=1)
    assert bool(((attack(noisy, clean) - noisy).abs() <= 0.1).all())
    assert begun == [(1, [place], 6) for place in range(6)]


def test_models_are_left_as_found() -> None:
    clean = _images(4, 0)
    encoder = LeftMean().train()
    fa.MIGA(nn.Identity(), eps=0.1, steps=2, encoder=encoder, perceptual=None)(clean, clean)
    assert encoder.training
    assert encoder.gain.requires_grad
    assert encoder.gain.grad is None


def test_without_the_information_neither_critic_nor_clean_images_are_wanted() -> None:
    noisy = _images(3, 0)
    attack = fa.MIGA(nn.Identity(), eps=0.1, steps=2, lambda_mi=0, perceptual=None)
    torch.testing.assert_close(attack(noisy), noisy)


@pytest.mark.parametrize(
    ("options", "count", "error", "words"),
    [
        ({}, 1, ValueError, "bank: wanted clean images beside a batch of one"),
        ({"estimator": "mine"}, 4, ValueError, "estimator: wanted one of 'dv', 'infonce', 'nwj', got 'mine'"),
        ({"bank": torch.rand(5, 1, 9, 9)}, 4, ValueError, "bank: wanted clean images .N, 1, 8, 8. like the attacked"),
        ({"bank": [1]}, 4, TypeError, "bank: wanted a float tensor"),
        ({"keep": "best"}, 4, ValueError, "keep: wanted 'last' for an unknown task"),
        ({"restarts": 2, "random_start": True}, 4, ValueError, "restarts: wanted 1 for an unknown task"),
        ({"graph": "always"}, 4, ValueError, "graph: wanted 'never' for an unknown task"),
        ({"adaptive": True}, 4, ValueError, "adaptive: wanted False or None"),
        ({"target": 3}, 4, TypeError, "target: wanted None without a task model"),
        ({"task_loss": fa.objectives.mse}, 4, TypeError, "task_loss: wanted None without a task model"),
        ({"task": nn.Flatten(), "encoder": nn.Flatten()}, 4, TypeError, "encoder: wanted None beside a task model"),
        (
            {"encoder": lambda z: z.flatten(1).detach()},
            4,
            ValueError,
            "encoder: wanted a differentiable .*without gradient$",
        ),
        ({"encoder": lambda z: z.sum()}, 4, ValueError, "encoder: wanted float features .4, ....,"),
    ],
)
def test_bad_input(options: dict[str, Any], count: int, error: type[Exception], words: str) -> None:
    clean = _images(count, 0)
    with pytest.raises(error, match=words):
        fa.MIGA(nn.Identity(), **{"eps": 0.1, "steps": 2, "perceptual": None, **options}).run(clean, clean)


def test_the_clean_images_must_be_there() -> None:
    with pytest.raises(TypeError, match="target: wanted the clean images"):
        fa.MIGA(nn.Identity(), eps=0.1, perceptual=None)(_images(4, 0))


@pytest.mark.parametrize("wrong", [{"warmup": -1}, {"critic_steps": 1.5}, {"lr": 0}, {"warmup": 0, "critic_steps": 0}])
def test_mining_s_options(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Mining(**wrong)
