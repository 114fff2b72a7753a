"""The guide's network: its adversarial training against NumPy, what it leaves alone, its files and its errors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import fastattack as fa
from fastattack.defenses import Auxiliary, train_auxiliary
from fastattack.defenses.auxiliary_training import spread_loss

EPS = 0.05


def net(**options: Any) -> Auxiliary:
    return Auxiliary(1, widths=(4, 6), latent=5, **({"seed": 1} | options))


def bars(count: int = 48) -> tuple[Tensor, Tensor]:
    """Images of 8 x 8 with a bar, upright (1) or lying (0), in noise: few pixels decide."""
    generator = torch.Generator().manual_seed(0)
    x = 0.5 + 0.05 * torch.randn(count, 1, 8, 8, generator=generator)
    y = torch.arange(count) % 2
    place = torch.randint(0, 8, (count,), generator=generator)
    for k in range(count):
        (x[k, 0].T if y[k] else x[k, 0])[place[k]] += 0.3
    return x.clamp(0, 1), y


def after_attack(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The cross-entropy that PGD leaves."""
    loss = fa.objectives.cross_entropy
    return float(fa.PGD(model, eps=EPS, steps=10, objective=loss, seed=3).run(x, y).loss.mean())


# -- the losses --------------------------------------------------------------------------------------------------------


def test_the_loss_of_a_first_step_with_labels() -> None:
    """A ball without room: CE alone. In a larger one the adversarial term is KL(p(x) || p(x')) by its maximum."""
    x, y = bars(12)
    aux = net(classes=3).double()
    logits = aux.classifier()(x.double()).detach().numpy()
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    ce = -np.log(p[np.arange(12), y.numpy()]).mean()
    found = train_auxiliary(net(classes=3).double(), x, y, eps=1e-9, epochs=1, weight=7.0)
    assert found.losses[0] == pytest.approx(ce, rel=1e-6)
    assert found.robust[0] < 1e-12
    wide = train_auxiliary(net(classes=3).double(), x, y, eps=EPS, epochs=1, weight=7.0)
    assert wide.losses[0] == pytest.approx(ce + 7 * wide.robust[0], rel=1e-9)
    nearby = x.double() + EPS * torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).sign()
    moved = aux.classifier()(nearby).detach().numpy()
    q = np.exp(moved) / np.exp(moved).sum(1, keepdims=True)
    assert wide.robust[0] > 2 * (p * np.log(p / q)).sum(1).mean()  # no random corner is as far


def test_the_loss_of_a_first_step_without_labels() -> None:
    x, _ = bars(12)
    h = net().double()(x.double()).detach().numpy()
    covariance = np.cov(h.T)
    beside = (covariance**2).sum() - (np.diag(covariance) ** 2).sum()
    hinge = np.maximum(0, 1 - np.sqrt(np.diag(covariance) + 1e-4)).mean()
    wanted = hinge + 0.04 * beside / h.shape[1]
    assert float(spread_loss(torch.tensor(h))) == pytest.approx(wanted, rel=1e-9)
    found = train_auxiliary(net().double(), x, eps=EPS, epochs=1, weight=2.0)
    assert found.losses[0] == pytest.approx(wanted + 2 * found.robust[0], rel=1e-9)
    assert found.robust[0] > 0


def test_training_against_attacks_makes_a_classifier_that_withstands_them() -> None:
    x, y = bars()
    options: dict[str, Any] = {"eps": EPS, "attack_steps": 2, "epochs": 16, "batch": 16, "lr": 0.02}
    hard, soft = net(classes=2), net(classes=2)
    report = train_auxiliary(hard, x, y, **options, weight=2.0)
    train_auxiliary(soft, x, y, **options, weight=0.0)
    assert report.losses[-1] < report.losses[0]
    assert "16 epochs with labels" in str(report)
    assert after_attack(hard.classifier(), x, y) < 0.65 * after_attack(soft.classifier(), x, y)
    assert float((hard.classifier()(x).argmax(1) == y).float().mean()) > 0.7


def test_without_labels_latents_stay_and_differ() -> None:
    """Beside the spread of the latents an attack moves them less than before, and no latent is the same for all."""
    x, _ = bars()
    options: dict[str, Any] = {"eps": EPS, "attack_steps": 2, "epochs": 16, "batch": 16, "lr": 0.02}
    hard, soft = net(), net()
    train_auxiliary(hard, x, **options)
    train_auxiliary(soft, x, **options, weight=0.0)

    def share(aux: Auxiliary) -> float:
        with torch.no_grad():
            h = aux(x)
        moved = fa.PGD(aux, eps=EPS, steps=10, seed=3).run(x, h).loss.mean()
        return float(moved / h.var(0).mean())

    assert share(hard) < 0.5 * share(soft)
    with torch.no_grad():
        assert float(hard(x).std(0).mean()) > 0.2


# -- what is kept ------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights_and_the_random_state_stays() -> None:
    x, y = bars(20)
    state, weights = torch.get_rng_state(), []
    for seed in (0, 0, 1):
        aux = net(classes=2)
        train_auxiliary(aux, x, y, eps=EPS, epochs=2, batch=8, noise=0.1, seed=seed)
        weights.append(torch.cat([p.detach().flatten() for p in aux.parameters()]))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(net(seed=1).layers[0].weight, net(seed=2).layers[0].weight)


def test_no_generator_of_another_device_is_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("seeded every GPU"))
    aux = Auxiliary(widths=(2,), latent=2, seed=1)
    train_auxiliary(aux, bars(4)[0], eps=EPS, epochs=1, batch=4, attack_steps=1)


def test_mode_gradients_and_frozen_parameters_stay() -> None:
    body = nn.Sequential(nn.Conv2d(1, 3, 3, stride=2), nn.BatchNorm2d(3), nn.SiLU(), nn.Dropout(0.2)).eval()
    head = nn.Linear(27, 2)
    body[0].weight.requires_grad_(False)
    body[0].bias.grad = torch.full((3,), 5.0)
    still, moved = body[0].weight.clone(), body[0].bias.clone()
    x, y = bars(16)
    train_auxiliary(body, x, y, head=head, eps=EPS, epochs=1)
    assert torch.equal(body[0].weight, still)
    assert not torch.equal(body[0].bias, moved)
    assert body[0].bias.grad.tolist() == [5.0] * 3
    assert head.weight.grad is None
    assert not body.training
    assert head.training


@pytest.mark.parametrize("error", [fa.NonFiniteError, KeyboardInterrupt])
def test_an_error_leaves_the_weights_as_they_were(error: type[BaseException]) -> None:
    x, y = bars(8)
    aux = net(classes=2)
    before = {name: value.clone() for name, value in aux.state_dict().items()}

    def progress(epoch: int, loss: float) -> None:
        raise KeyboardInterrupt

    rate = 1e30 if error is fa.NonFiniteError else 1e-3
    with pytest.raises(error):
        train_auxiliary(aux, x, y, eps=EPS, epochs=4, lr=rate, progress=None if rate > 1 else progress)
    assert all(torch.equal(value, before[name]) for name, value in aux.state_dict().items())


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_file_holds_the_network_and_how_it_was_made(tmp_path: Path) -> None:
    x, _ = bars(4)
    path = tmp_path / "new" / "h.safetensors"
    for aux in (net(), net(classes=3).double()):
        aux.save(path, metadata={"eps": EPS, "architecture": "mine"})
        found = Auxiliary.load(path)
        assert (found.channels, found.widths, found.latent, found.classes) == (1, (4, 6), 5, aux.classes)
        assert not found.training
        assert torch.equal(found(x.to(next(aux.parameters()))), aux(x.to(next(aux.parameters()))))
        assert fa.models.weights.read_weights(path)[1]["eps"] == "0.05"
    assert [p.name for p in path.parent.iterdir()] == ["h.safetensors"]


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "h.safetensors"
    with pytest.raises(FileNotFoundError, match=r"h.safetensors: no such weight file"):
        Auxiliary.load(path)
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"wanted a file of Auxiliary.save, architecture 'auxiliary', got None"):
        Auxiliary.load(path)
    save_file({"a": torch.zeros(2)}, path, {"architecture": "auxiliary", "channels": "1", "widths": "4", "latent": "2"})
    with pytest.raises(ValueError, match="not a whole auxiliary network"):
        Auxiliary.load(path)
    with pytest.raises(ValueError, match=r"path: wanted a name that ends in .safetensors"):
        net().save(tmp_path / "h.pt")


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"eps": -1.0}, ValueError, "eps: wanted"),
        ({"norm": "l7"}, ValueError, "norm: wanted"),
        ({"attack_steps": 0}, ValueError, "steps: wanted"),
        ({"epochs": 0}, ValueError, "epochs: wanted a whole number >= 1, got 0"),
        ({"batch": 1, "labels": None}, ValueError, "batch: wanted a whole number >= 2, got 1"),
        ({"weight": math.nan}, ValueError, "weight: wanted a finite number >= 0, got nan"),
        ({"lr": 0.0}, ValueError, "lr: wanted a finite number above 0, got 0.0"),
        ({"noise": -0.1}, ValueError, "noise: wanted a finite number >= 0, got -0.1"),
        ({"seed": -1}, ValueError, "seed: wanted 0 <= seed"),
        ({"labels": torch.zeros(3, dtype=torch.long)}, ValueError, r"labels: wanted 8 integers, .* got \(3,\)"),
        ({"labels": torch.arange(8)}, ValueError, "labels: wanted 0 to 1, got 0 to 7"),
        ({"labels": torch.zeros(8)}, ValueError, r"labels: wanted 8 integers, .* torch.float32"),
        ({"images": torch.zeros(8, 64)}, ValueError, r"images: wanted 1 or more, \(N, C, H, W\), got shape \(8, 64\)"),
        ({"images": torch.full((8, 1, 8, 8), math.nan)}, ValueError, "input: wanted finite numbers"),
        ({"images": 255 * bars(8)[0]}, ValueError, r"input: wanted values inside bounds \(0.0, 1.0\), got .* to \d\d"),
        ({"images": torch.rand(8, 3, 8, 8)}, ValueError, r"auxiliary: wanted a network for 3 channel\(s\)"),
        ({"auxiliary": net()}, ValueError, "classes: wanted an Auxiliary with classes="),
        ({"auxiliary": nn.Flatten()}, ValueError, "head: wanted an nn.Module from latents to logits for Flatten"),
        ({"auxiliary": nn.Flatten(), "labels": None}, ValueError, "auxiliary: wanted parameters"),
        ({"auxiliary": 3}, TypeError, "auxiliary: wanted an nn.Module, got int"),
        ({"head": nn.Linear(5, 2), "labels": None}, ValueError, "head: wanted None without labels"),
        ({"head": 3}, TypeError, "head: wanted an nn.Module"),
    ],
)
def test_arguments_that_do_not_fit(options: dict[str, Any], error: type[Exception], message: str) -> None:
    x, y = bars(8)
    given: dict[str, Any] = {"auxiliary": net(classes=2), "images": x, "labels": y, "eps": EPS} | options
    with pytest.raises(error, match=message):
        train_auxiliary(given.pop("auxiliary"), given.pop("images"), given.pop("labels"), **given)


@pytest.mark.parametrize(
    "options", [{"widths": ()}, {"widths": (4, 0)}, {"latent": 0}, {"classes": 1}, {"channels": 1.5}]
)
def test_networks_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(options))}: wanted"):
        Auxiliary(**options)
