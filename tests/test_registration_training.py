"""Training of registration models by the common loop: losses, batches, strategies, resuming, an attack inside."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import fastattack as fa
from fastattack import registration as r
from fastattack.training import TrainConfig, attacked
from tests.test_training import same

SIZE = (20, 24)


class Net(nn.Module):
    """A registration net of two layers, in 2D or 3D."""

    def __init__(self, dims: int = 2) -> None:
        super().__init__()
        self.dims = dims
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        torch.manual_seed(0)
        self.inner = nn.Sequential(conv(2, 6, 5, padding=2), nn.Tanh(), conv(6, dims, 5, padding=2))
        nn.init.zeros_(self.inner[2].bias)

    def forward(self, pair: Tensor) -> Tensor:
        return self.inner(pair)


def images(count: int = 6, size: tuple[int, ...] = SIZE) -> Tensor:
    """Blobs in [0, 1]."""
    random = torch.Generator().manual_seed(3)
    return torch.stack([_blobs(size, random) for _ in range(count)])[:, None]


def _blobs(size: tuple[int, ...], random: torch.Generator) -> Tensor:
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in size], indexing="ij")
    total = torch.zeros(size)
    for _ in range(4):
        middle = [0.2 * n + 0.6 * n * torch.rand(1, generator=random) for n in size]
        total += torch.exp(-sum((x - m) ** 2 for x, m in zip(axes, middle, strict=True)) / 18)
    return total / total.max()


def labels_of(given: Tensor) -> Tensor:
    return (given > 0.3).long() + (given > 0.6).long()


def synthetic(**options: object) -> r.Synthetic:
    return r.Synthetic(**{"amplitude": 2.0, "scale": 4.0, "contrast": "none", "bias": 0.0, "noise": 0.0, **options})


def truth_of(count: int = 4, size: tuple[int, ...] = SIZE) -> r.Truth:
    given = images(count, size)
    pair, truth = synthetic(points=5).pairs(given, labels_of(given), seed=1, ids=range(count))
    return replace(truth, pair=pair)


# -- the loss ------------------------------------------------------------------------------------------------------


def test_each_weight_counts_by_its_own_formula() -> None:
    truth = truth_of()
    field = 0.3 * torch.randn(4, 2, *SIZE, generator=torch.Generator().manual_seed(0))
    assert truth.field is not None
    assert truth.pair is not None
    assert truth.mask is not None

    supervised = r.RegistrationLoss(similarity=None, smoothness=0, supervised=2.0)(field, truth)
    apart = (field.double().numpy() - truth.field.double().numpy()) ** 2
    inside = truth.mask[:, 0].numpy()
    wanted = [2 * apart[k].sum(0)[inside[k]].mean() for k in range(4)]
    assert np.allclose(supervised.numpy(), wanted, rtol=1e-5)

    alone = r.RegistrationLoss(similarity=lambda a, b: (a - b).square().flatten(1).mean(1), smoothness=0)(field, truth)
    warped = r.warp(truth.pair[:, :1], field)
    assert np.allclose(alone.numpy(), ((warped - truth.pair[:, 1:]).double().numpy() ** 2).mean((1, 2, 3)), rtol=1e-5)

    rough = r.RegistrationLoss(similarity=None, supervised=2.0, smoothness=3.0)(field, truth) - supervised
    slopes = sum((np.diff(field.double().numpy(), axis=2 + k) ** 2).mean((2, 3)).sum(1) for k in range(2))
    assert np.allclose(rough.numpy(), 3 * slopes, rtol=1e-4)

    bent = r.RegistrationLoss(similarity=None, supervised=2.0, smoothness=0, bending=4.0)(field, truth) - supervised
    assert np.allclose(bent.numpy(), 4 * r.bending_energy(field).numpy(), rtol=1e-4)


def test_overlap_leaves_out_what_has_no_label() -> None:
    labels = torch.zeros(2, 1, 8, 8, dtype=torch.int64)
    labels[0, :, 2:6, 2:6] = 1
    field = torch.full((2, 2, 8, 8), 0.5, requires_grad=True)
    loss = r.RegistrationLoss(similarity=None, smoothness=0, overlap=1.0, labels=(1,))
    found = loss(field, r.Truth(labels_moving=labels, labels_fixed=labels))
    found.sum().backward()
    assert found[0] > 0
    assert found[1] == 0
    assert field.grad is not None
    assert field.grad[0].any()
    assert not field.grad[1].any()


def test_overlap_of_the_true_field_is_whole_and_falls_beside_it() -> None:
    truth = replace(truth_of(), labels_moving=None)
    still = torch.zeros(4, 2, *SIZE)
    loss = r.RegistrationLoss(similarity=None, smoothness=0, overlap=2.0, labels=(1, 2))
    same = replace(truth, labels_moving=truth.labels_fixed)
    assert torch.allclose(loss(still, same), torch.zeros(4), atol=1e-6)
    moved = torch.full_like(still, 2.0)
    assert (loss(moved, same) > 0.2).all()
    with pytest.raises(ValueError, match="labels_moving"):
        loss(still, truth)


def test_spacing_counts_in_the_smoothness() -> None:
    truth, field = truth_of(), torch.randn(4, 2, *SIZE, generator=torch.Generator().manual_seed(0))
    loss = r.RegistrationLoss(similarity=None, supervised=1e-9, smoothness=1.0)
    wide = replace(truth, spacing=torch.tensor([[1.0, 3.0]]).expand(4, -1))
    expected = r.gradient_penalty(field, (1.0, 3.0))
    assert torch.allclose(loss(field, wide), expected, rtol=1e-5)
    assert not torch.allclose(loss(field, truth), expected, rtol=1e-2)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"smoothness": -1.0}, "smoothness"),
        ({"supervised": float("nan")}, "supervised"),
        ({"similarity": r.mind_ssc}, "similarity"),
        ({"similarity": None}, "similarity"),
        ({"overlap": 1.0}, "labels"),
    ],
)
def test_weights_that_cannot_be_are_named(options: dict[str, object], error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        r.RegistrationLoss(**options)  # type: ignore[arg-type]


def test_a_truth_without_what_counts_is_refused_by_name() -> None:
    truth, field = truth_of(), torch.zeros(4, 2, *SIZE)
    with pytest.raises(ValueError, match=r"truth\.pair"):
        r.RegistrationLoss()(field, replace(truth, pair=None))
    with pytest.raises(ValueError, match=r"truth\.field"):
        r.RegistrationLoss(supervised=1.0)(field, replace(truth, field=None))


# -- data ----------------------------------------------------------------------------------------------------------


def test_images_are_drawn_and_turned_over_together_with_labels() -> None:
    given = images()
    data = r.ImageBatches(given, labels_of(given), given > 0.3, batch=8, seed=5)
    batch, again = data.batch_at(2, 1), data.batch_at(2, 1)
    assert torch.equal(batch.images, again.images)
    assert not torch.equal(batch.images, data.batch_at(2, 0).images)
    assert batch.labels is not None
    assert batch.masks is not None
    assert torch.equal(batch.labels, labels_of(batch.images))
    assert torch.equal(batch.masks, batch.images > 0.3)
    turned = [(a, b) for a in (False, True) for b in (False, True)]
    ways = [f.flip([k + 1 for k, t in enumerate(way) if t]) for f in given for way in turned]
    assert all(any(torch.equal(row, one) for one in ways) for row in batch.images)
    assert not all(any(torch.equal(row, one) for one in given) for row in batch.images)
    plain = r.ImageBatches(given, batch=8, seed=5, flips=False).batch_at(2, 1)
    assert all(any(torch.equal(row, one) for one in given) for row in plain.images)
    assert r.ImageBatches(given, batch=4).steps_per_epoch == 1


def test_pairs_are_drawn_with_all_that_is_known_of_them() -> None:
    truth = truth_of()
    batch = r.PairBatches(truth, batch=3, seed=2).batch_at(0, 0)
    assert batch.pair is not None
    assert batch.field is not None
    assert truth.pair is not None
    assert truth.field is not None
    for pair, field in zip(batch.pair, batch.field, strict=True):
        (row,) = [k for k in range(4) if torch.equal(truth.pair[k], pair)]
        assert torch.equal(truth.field[row], field)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: r.ImageBatches(images()[:, 0]), "images"),
        (lambda: r.ImageBatches(images(), labels_of(images())[:3]), "labels"),
        (lambda: r.ImageBatches(images(), batch=0), "batch"),
        (lambda: r.PairBatches(r.Truth()), r"truth\.pair"),
        (lambda: r.PairBatches(replace(truth_of(), mask=torch.ones(3, 1, *SIZE))), r"truth\.mask"),
        (lambda: r.PairBatches(images()), "truth"),  # type: ignore[arg-type]
        (lambda: r.synthesised("t2"), "synthetic"),  # type: ignore[arg-type]
        (lambda: r.RegistrationValidation(truth=replace(truth_of(), field=None), what="field_error"), "what"),
        (lambda: r.RegistrationValidation(truth=r.Truth(pair=truth_of().pair)), "what"),
    ],
)
def test_data_that_cannot_be_is_named(make: Callable[[], object], error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        make()


# -- strategies ----------------------------------------------------------------------------------------------------


def test_a_pair_depends_on_seed_epoch_and_sample_id_alone() -> None:
    made, given = r.synthesised(synthetic(), seed=7), images(4)
    whole, truth = made(Net(), given, sample_ids=[4, 5, 6, 7], epoch=3)
    part, known = made(Net(), given[2:3], sample_ids=[6], epoch=3)
    assert torch.equal(part[0], whole[2])
    assert torch.equal(known.field[0], truth.field[2])
    assert torch.equal(truth.pair, whole)
    assert not torch.equal(made(Net(), given, sample_ids=[4, 5, 6, 7], epoch=4)[0], whole)
    assert not torch.equal(r.synthesised(synthetic(), seed=8)(Net(), given, sample_ids=[4, 5, 6, 7], epoch=3)[0], whole)
    # The target is the truth: it brings the moving image onto the fixed one, but for two interpolations.
    apart = (r.warp(truth.pair[:, :1], truth.field) - truth.pair[:, 1:]).abs()
    assert apart.mean() < 0.01 < (truth.pair[:, :1] - truth.pair[:, 1:]).abs().mean()


def test_attacked_pairs_raise_the_loss_within_their_radius() -> None:
    model, given, loss = Net().eval(), images(4), r.RegistrationLoss(similarity=None, supervised=1.0)
    plain = r.synthesised(synthetic(), seed=7)
    hard = attacked(plain, eps=4 / 255, steps=4, bounds=(0, 1), objective=loss)
    before, truth = plain(model, given, sample_ids=range(4), epoch=0)
    after, target = hard(model, given, sample_ids=range(4), epoch=0)
    assert 3 / 255 < (after - before).abs().max() <= 4 / 255
    assert (loss(model(after), truth) > loss(model(before), truth)).all()
    assert torch.equal(target.pair, truth.pair)  # the loss compares the images that nobody attacked
    assert hard.describe()["objective"]["supervised"] == 1.0


def test_a_share_of_the_pairs_is_attacked_each_against_its_own_truth() -> None:
    model, given, loss = Net().eval(), images(6), r.RegistrationLoss(similarity=None, supervised=1.0, smoothness=0)
    plain = r.synthesised(synthetic(), seed=7)
    options = {"eps": 4 / 255, "steps": 2, "bounds": (0, 1), "objective": loss}
    before, _ = plain(model, given, sample_ids=range(6), epoch=0)
    some, _ = attacked(plain, share=0.5, **options)(model, given, sample_ids=range(6), epoch=0)
    every, _ = attacked(plain, **options)(model, given, sample_ids=range(6), epoch=0)
    changed = (some != before).flatten(1).any(1)
    assert 0 < changed.sum() < 6
    assert torch.allclose(some[changed], every[changed], atol=1e-6)
    assert torch.equal(some[~changed], before[~changed])


# -- the loop ------------------------------------------------------------------------------------------------------


def train(out: Path, model: nn.Module, steps: int = 12, **options: object) -> fa.training.TrainResult:
    data = r.ImageBatches(images(), labels_of(images()), batch=2, seed=1)
    config = TrainConfig(steps=steps, lr=3e-3, clip=None, log_every=4, ema=0.9)
    return r.train_registration(
        model, data, config, out=out, strategy=r.synthesised(synthetic(), seed=2), progress=False, **options
    )  # type: ignore[arg-type]


SUPERVISED = r.RegistrationLoss(supervised=1.0, overlap=0.1, labels=(1, 2))


def test_training_brings_the_field_near_the_true_one_and_says_so(tmp_path: Path) -> None:
    truth = truth_of(2)
    model, check = fa.models.LLMMorph(width=4, levels=2, blocks=1, heads=2), r.RegistrationValidation(truth=truth)
    before = check(model)["valid"]
    state, data = torch.get_rng_state(), r.PairBatches(truth, batch=2, steps_per_epoch=12)
    loss = r.RegistrationLoss(similarity=None, smoothness=0, supervised=1.0)
    config = TrainConfig(steps=24, lr=1e-2, clip=None)
    result = r.train_registration(
        model, data, config, out=tmp_path, loss=loss, validation=check, progress=False
    )  # fmt: skip
    assert torch.equal(torch.get_rng_state(), state)
    assert result.rows[-1]["valid"] < 0.7 * before
    assert result.rows[-1]["loss"] < 0.7 * result.rows[0]["loss"]
    assert "psnr" not in result.rows[0]
    again = fa.models.llm_morph.load(result.weights)
    assert truth.pair is not None
    with torch.no_grad():
        assert torch.equal(again(truth.pair), model.eval()(truth.pair))
    lines = list(csv.DictReader((tmp_path / "log.csv").open(encoding="utf-8")))
    assert {line["psnr"] for line in lines} == {""}
    assert float(lines[-1]["valid"]) == result.rows[-1]["valid"]


def test_the_validation_is_the_mean_error_of_the_field_in_millimetres() -> None:
    truth = replace(truth_of(), spacing=torch.tensor([[2.0, 0.5]]).expand(4, -1))
    model = Net()
    for p in model.parameters():
        nn.init.zeros_(p)
    found = r.RegistrationValidation(truth=truth, batch=3)(model)["valid"]
    assert truth.field is not None
    assert truth.mask is not None
    lengths = np.sqrt(((truth.field.double().numpy() * np.array([2.0, 0.5])[:, None, None]) ** 2).sum(1))
    inside = truth.mask[:, 0].numpy()
    assert found == pytest.approx(np.mean([lengths[k][inside[k]].mean() for k in range(4)]), rel=1e-6)


def test_a_run_goes_on_with_the_net_that_it_was_begun_with_alone(tmp_path: Path) -> None:
    """Nets of the same shapes that are others; and one whose checkpoint was written before nets told of themselves."""
    small = {"width": 4, "levels": 2, "blocks": 1, "heads": 2}
    train(tmp_path, fa.models.LLMMorph(**small), 1)
    train(tmp_path, fa.models.LLMMorph(**small, seed=1), 1, resume=True)
    with pytest.raises(ValueError, match=r"another run: options\.diffeomorphic"):
        train(tmp_path, fa.models.LLMMorph(**small, diffeomorphic=False), 1, resume=True)
    assert not hasattr(Net(), "describe_options")
    train(tmp_path / "plain", Net(), 1)
    content = torch.load(tmp_path / "plain" / "checkpoint.pt", weights_only=True)
    assert "options" not in content["identity"]


def test_a_resumed_run_gives_the_same_bits(tmp_path: Path) -> None:
    whole, halves = Net(), Net()
    train(tmp_path / "whole", whole, loss=SUPERVISED)
    with pytest.raises(RuntimeError, match="pulled"):
        train(tmp_path / "halves", halves, loss=_Pulled(SUPERVISED, 9))
    again = Net()
    resumed = train(tmp_path / "halves", again, loss=_Pulled(SUPERVISED, 99), resume=True)
    assert set(load_file(resumed.weights)) == set(again.state_dict())
    assert same(whole.state_dict(), again.state_dict())
    assert same(load_file(resumed.weights), load_file(tmp_path / "whole" / "model.safetensors"))


class _Pulled:
    """A loss behind which the plug is pulled at the n-th call; for checkpoints it is the loss itself."""

    def __init__(self, loss: r.RegistrationLoss, last: int) -> None:
        self.loss, self.left = loss, last

    def __call__(self, field: Tensor, truth: r.Truth) -> Tensor:
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("pulled")
        return self.loss(field, truth)

    def describe(self) -> dict[str, object]:
        return {"supervised": self.loss.supervised}


def test_another_loss_or_other_images_are_another_run(tmp_path: Path) -> None:
    train(tmp_path, Net(), 2, loss=SUPERVISED)
    with pytest.raises(ValueError, match=r"another run.*smoothness"):
        train(tmp_path, Net(), 2, loss=replace(SUPERVISED, smoothness=0.5), resume=True)


@pytest.mark.parametrize("channels_last", [False, True])
def test_volumes_and_given_pairs_are_trained_on_too(tmp_path: Path, channels_last: bool) -> None:
    truth = truth_of(3, (8, 10, 12))
    config = TrainConfig(steps=3, channels_last=channels_last, autocast="bf16" if channels_last else None)
    loss = r.RegistrationLoss(similarity=r.local_correlation(window=5), supervised=1.0)
    model = Net(3)
    before = [p.detach().clone() for p in model.parameters()]
    result = r.train_registration(model, r.PairBatches(truth, batch=2), config, out=tmp_path, loss=loss, progress=False)
    assert np.isfinite(result.rows[-1]["loss"])
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_images_of_another_dimension_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    data = r.ImageBatches(images())
    with pytest.raises(ValueError, match="data: wanted images of 3 dimensions"):
        r.train_registration(Net(3), data, TrainConfig(steps=1), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_targets_of_several_parts_want_a_loss_of_theirs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="loss: wanted an objective for targets of the kind Truth"):
        fa.training.train(
            Net(), r.ImageBatches(images()), r.synthesised(synthetic()), TrainConfig(steps=1), out=tmp_path,
            progress=False,
        )  # fmt: skip
