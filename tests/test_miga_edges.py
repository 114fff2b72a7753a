"""MIGA where callers differ: inference mode, weights and losses of other kinds, encoders, geometry, names in errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastattack as fa
from fastattack.attacks import Mining, pipeline
from fastattack.attacks.apgd import MomentumWalk

MINING = Mining(warmup=3)


def _models() -> tuple[nn.Module, nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Conv2d(1, 1, 3, padding=1), nn.Sequential(nn.Flatten(), nn.Linear(16 * 12, 5))


def _case() -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    denoiser, task = _models()
    noisy = torch.rand(6, 1, 16, 12, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return denoiser, task, noisy, task(denoiser(noisy)).argmax(1)


@pytest.mark.parametrize("target", [None, 3])
def test_inference_mode_changes_nothing(target: int | None) -> None:
    denoiser, task, noisy, labels = _case()
    attack = fa.MIGA(denoiser, task, eps=0.1, steps=3, lambda_rec=0.1, perceptual=lambda a, b: (a * b).mean((1, 2, 3)),
                     target=target)  # fmt: skip
    want = attack(noisy, labels)
    with torch.inference_mode():
        found = attack(noisy.clone(), labels.clone())
    torch.testing.assert_close(found.clone(), want, rtol=0, atol=0)


def test_features_of_any_shape_are_those_of_the_flat_ones() -> None:
    denoiser, _, noisy, _ = _case()
    with torch.random.fork_rng():
        torch.manual_seed(2)
        trunk = nn.Conv2d(1, 3, 3, stride=2)
    options: dict[str, Any] = {"eps": 0.1, "steps": 3, "estimator": MINING, "perceptual": None}
    found = fa.MIGA(denoiser, encoder=trunk, **options)(noisy, noisy)
    want = fa.MIGA(denoiser, encoder=nn.Sequential(trunk, nn.Flatten()), **options)(noisy, noisy)
    torch.testing.assert_close(found, want, rtol=0, atol=0)
    assert float((found - noisy).abs().max()) > 0.05


def test_the_encoder_sees_no_more_than_max_batch() -> None:
    denoiser, task, noisy, _ = _case()
    sizes = []

    def encoder(z: Tensor) -> Any:
        sizes.append(len(z))
        return task(z)

    fa.MIGA(denoiser, eps=0.1, steps=1, encoder=encoder, estimator=MINING, bank=noisy, max_batch=4)(noisy, noisy)
    assert max(sizes) == 4


def test_the_critic_learns_nothing_at_a_step_without_the_information(monkeypatch: Any) -> None:
    denoiser, _, noisy, _ = _case()
    learnt = []
    learn = fa.information.Critic.learn

    def counted(self: Any, *args: Any, **options: Any) -> Tensor:
        learnt.append(len(args[0]))
        return learn(self, *args, **options)

    monkeypatch.setattr(fa.information.Critic, "learn", counted)
    attack = fa.MIGA(denoiser, eps=0.1, steps=4, lambda_mi=lambda step, steps: float(step == 1), estimator=MINING)
    attack(noisy, noisy)
    assert len(learnt) == MINING.warmup + 1


@pytest.mark.parametrize("weights", [{"lambda_mi": (0.0, 1.0)}, {"lambda_mi": 0, "lambda_rec": (0, 5)}])
def test_a_step_where_all_weights_are_zero_moves_nothing(weights: dict[str, Any]) -> None:
    denoiser, task, noisy, labels = _case()
    seen: list[Tensor] = []
    attack = fa.MIGA(denoiser, task, eps=0.1, steps=2, perceptual=None, **{"lambda_rec": 0, "lambda_com": 0, **weights})
    found = attack.run(noisy, labels, progress=lambda p: seen.append(p.loss))
    assert not bool(seen[0].any())
    assert bool(((found.adversarial - noisy).abs() <= 0.1).all())


def test_a_number_of_numpy_is_a_constant_weight() -> None:
    denoiser, task, noisy, labels = _case()
    one, other = (
        fa.MIGA(denoiser, task, eps=0.1, steps=3, lambda_rec=weight)  # type: ignore[arg-type]
        for weight in (np.float32(0.5), 0.5)
    )
    assert one.schedule == other.schedule
    torch.testing.assert_close(one(noisy, labels), other(noisy, labels), rtol=0, atol=0)


def test_a_zero_mean_is_kept() -> None:
    denoiser, task, noisy, labels = _case()
    options: dict[str, Any] = {"eps": 3.0, "norm": "l2", "zero_mean": True, "lambda_rec": 0.0, "lambda_com": 0.0}
    attack = fa.MIGA(denoiser, task, **options)
    gap = (attack(noisy, labels) - noisy).double()
    assert float(gap.abs().max()) > 0.1
    assert float(gap.mean((1, 2, 3)).abs().max()) < 1e-6
    assert fa.MIGA(denoiser, task, eps=3.0, norm="l2").rule is MomentumWalk
    with pytest.raises(ValueError, match="adaptive: wanted False or None"):
        fa.MIGA(denoiser, task, adaptive=True, **options)


def test_features_of_both_targets_are_made_once() -> None:
    denoiser, task, noisy, labels = _case()
    constant = []

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(()))

        def forward(self, images: Tensor) -> Tensor:
            if not torch.is_grad_enabled():
                constant.append(images)
            return self.gain * images

    perceptual = fa.objectives.features(Net())
    fa.MIGA(denoiser, task, eps=0.1, steps=5, perceptual=perceptual, keep="last")(noisy, labels)
    assert len(constant) == 2


def test_networks_in_the_losses_are_left_as_found() -> None:
    denoiser, task, noisy, labels = _case()

    class Distance(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(1)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            assert not self.norm.training
            return (self.norm(a) - self.norm(b)).abs().mean((1, 2, 3))

    perceptual = Distance().train()
    fa.MIGA(denoiser, task, eps=0.1, steps=2, perceptual=perceptual)(noisy, labels)
    assert perceptual.norm.training
    assert perceptual.norm.weight.requires_grad
    assert int(perceptual.norm.num_batches_tracked) == 0


def test_a_failure_while_a_graph_is_recorded_stays_what_it_is(monkeypatch: Any) -> None:
    """`StepGraph` goes on without a graph after a RuntimeError alone."""

    def refuse(images: Tensor) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(ValueError, match="task: wanted a model"):
        pipeline.judge(refuse, torch.zeros(1, 1, 4, 4))
    monkeypatch.setattr(pipeline, "_recorded", lambda images: True)
    with pytest.raises(RuntimeError, match=r"^operation not permitted"):
        pipeline.judge(refuse, torch.zeros(1, 1, 4, 4))


def _mean(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().mean()


def _unfit(z: Tensor) -> Tensor:
    raise RuntimeError("224 x 224, please")


@pytest.mark.parametrize(
    ("options", "call", "error", "words"),
    [
        ({"perceptual": _mean}, {}, ValueError, r"^perceptual: wanted one number for each sample, shape .6,., got ..$"),
        ({"task_loss": nn.functional.cross_entropy}, {}, ValueError, r"^task_loss: wanted one number for each sample"),
        ({"lambda_rec": lambda step, steps: -1.0}, {}, ValueError, "^lambda_rec: wanted finite weights >= 0, got -1.0"),
        ({"lpips_net": "vgg"}, {}, ValueError, "^lpips_net: wanted none where perceptual is not 'lpips', got vgg"),
        ({}, {"clean": torch.zeros(3, 1, 16, 12)}, ValueError, "^clean: wanted .6, 1, 16, 12."),
        ({}, {"clean": torch.full((6, 1, 16, 12), torch.nan)}, ValueError, "^clean: wanted finite numbers"),
        ({}, {"clean": "images"}, TypeError, "^clean: wanted a tensor like the input, or None, got str"),
    ],
)
def test_bad_input(options: dict[str, Any], call: dict[str, Any], error: type[Exception], words: str) -> None:
    denoiser, task, noisy, labels = _case()
    with pytest.raises(error, match=words):
        fa.MIGA(denoiser, task, **{"eps": 0.1, "steps": 2, **options}).run(noisy, labels, **call)


@pytest.mark.parametrize(
    ("options", "clean", "error", "words"),
    [
        ({"encoder": _unfit}, 0.5, ValueError, "^encoder: wanted a model that takes .*224 x 224, please"),
        ({"estimator": "mine", "lambda_mi": 0}, 0.5, ValueError, "^estimator: wanted one of"),
        ({"estimator": ["dv"]}, 0.5, ValueError, "^estimator: wanted one of"),
        ({"bank": torch.full((3, 1, 16, 12), torch.inf)}, 0.5, ValueError, "^bank: wanted finite numbers"),
        ({"bank": torch.zeros(0, 1, 16, 12)}, 0.5, ValueError, "^bank: wanted clean images"),
        ({}, torch.nan, ValueError, "^target: wanted finite numbers"),
    ],
)
def test_bad_input_of_an_unknown_task(
    options: dict[str, Any], clean: float, error: type[Exception], words: str
) -> None:  # fmt: skip
    denoiser, _, noisy, _ = _case()
    with pytest.raises(error, match=words):
        fa.MIGA(denoiser, **{"eps": 0.1, "steps": 2, **options})(noisy, torch.full_like(noisy, clean))
