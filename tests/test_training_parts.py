"""Patches, configurations and validation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fastattack import DenoisingPGD
from fastattack import training as t
from fastattack.job import add_noise
from fastattack.metrics import psnr
from tests.test_training import SIGMA, Moody, images, same, snapshot


def test_patches_are_a_function_of_seed_epoch_and_step():
    pictures = images((9, 14), (20, 8))
    a, b, c = (t.Patches(pictures, size=8, batch=5, seed=s) for s in (0, 0, 1))
    assert torch.equal(a.batch_at(2, 7), b.batch_at(2, 7))
    assert a.batch_at(2, 7).shape == (5, 1, 8, 8)
    for other in (a.batch_at(2, 8), a.batch_at(3, 7), c.batch_at(2, 7)):
        assert not torch.equal(a.batch_at(2, 7), other)
    assert a.steps_per_epoch == max(1, (9 * 14 + 20 * 8) // (5 * 64))
    assert a.describe() == b.describe() != c.describe()
    assert a.describe() != t.Patches([p + 0.01 for p in pictures], size=8, batch=5).describe()


def test_patches_show_every_place_and_every_turn_of_every_image():
    pictures = [torch.arange(0, 12.0).reshape(1, 3, 4), torch.arange(12.0, 21).reshape(1, 3, 3)]
    known = set()
    for picture in pictures:
        for top in range(picture.shape[1] - 1):
            for left in range(picture.shape[2] - 1):
                for turn in range(4):
                    p = torch.rot90(picture[:, top : top + 2, left : left + 2], turn, (1, 2))
                    known |= {tuple(p.flatten().tolist()), tuple(p.flip(2).flatten().tolist())}
    batch = t.Patches(pictures, size=2, batch=4000).batch_at(0, 0)
    assert {tuple(p.flatten().tolist()) for p in batch} == known
    assert len(known) == 8 * (6 + 4)


@pytest.mark.parametrize(
    ("pictures", "options", "message"),
    [
        ([], {}, "images: wanted at least one"),
        ([torch.zeros(1, 9, 9), torch.zeros(1, 7, 9)], {}, r"images\[1\].*8 x 8.*\(1, 7, 9\)"),
        ([torch.zeros(1, 9, 9), torch.zeros(3, 9, 9)], {}, r"images\[1\].*1 channels"),
        ([torch.zeros(9, 9)], {}, r"images\[0\].*\(C, H, W\)"),
        ([torch.zeros(1, 9, 9, dtype=torch.uint8)], {}, r"images\[0\].*uint8"),
        ([torch.full((1, 9, 9), float("nan"))], {}, r"images\[0\].*NaN"),
        ([torch.zeros(1, 9, 9)], {"batch": 0}, "batch"),
        ([torch.zeros(1, 9, 9)], {"seed": -1}, "seed"),
        ([torch.zeros(1, 9, 9)], {"steps_per_epoch": 0}, "steps_per_epoch"),
    ],
)
def test_bad_patches(pictures, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        t.Patches(pictures, **{"size": 8, "batch": 2, **options})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0), ("steps", 2.0), ("lr", 0.0), ("lr", math.nan), ("lr_end", 2.0), ("warmup", -1), ("clip", 0.0),
        ("weight_decay", -1.0), ("ema", 1.0), ("autocast", "fp16"), ("optimiser", "sgd"), ("save_every", 0),
        ("valid_every", 0), ("log_every", 0), ("seed", -1), ("lr", "1e-3"), ("lr", None), ("lr", True), ("lr_end", "0"),
        ("weight_decay", "0"), ("clip", "x"), ("clip", [0.5]), ("ema", "0.9"), ("ema", torch.tensor([0.9])),
        ("channels_last", 1), ("channels_last", "yes"), ("warmup", 11),
    ],
)  # fmt: skip
def test_bad_configurations_name_the_field(field, value):
    with pytest.raises((TypeError, ValueError), match=f"^{field}: wanted"):
        t.TrainConfig(**{"steps": 10, field: value})


def test_a_configuration_holds_pythons_numbers():
    c = t.TrainConfig(steps=10, lr=np.float32(0.5), weight_decay=np.float64(0.1), clip=np.int64(2), ema=np.float64(0.9))
    assert {type(getattr(c, name)) for name in ("lr", "lr_end", "weight_decay", "clip", "ema")} == {float}
    assert type(c.rate(3)) is float
    assert t.TrainConfig(steps=10, warmup=10, clip=None).clip is None


def test_the_learning_rate_rises_and_falls_on_a_cosine():
    c = t.TrainConfig(steps=100, lr=2.0, lr_end=0.1, warmup=10)
    rates = [c.rate(k) for k in range(101)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[50] == pytest.approx(2 * (0.1 + 0.9 * 0.5))
    assert rates[100] == pytest.approx(0.2)
    assert sorted(rates[9:], reverse=True) == rates[9:]


def test_validation_measures_both_and_leaves_the_model_alone():
    model, pictures = Moody().train(), images((12, 10), (9, 16))
    model.inner[1].eval()
    before = snapshot(model)
    found = t.Validation(images=pictures, sigma=SIGMA, eps=0.02, steps=3, seed=4, crop=8)(model)
    assert same(before, snapshot(model))
    model.eval()
    crops = [pictures[0][None, :, 2:10, 1:9], pictures[1][None, :, 0:8, 4:12]]
    noisy = [add_noise(x[0], 25, 4, k)[None] for k, x in enumerate(crops)]
    attack = DenoisingPGD(model, eps=0.02, step=2 * 0.02 / 3, steps=3, seed=4)
    hit = [attack(y, x, sample_ids=[k]) for k, (y, x) in enumerate(zip(noisy, crops, strict=True))]
    for name, inputs in (("valid", noisy), ("attacked", hit)):
        values = [psnr(model(y), x).item() for y, x in zip(inputs, crops, strict=True)]
        assert found[name] == pytest.approx(np.mean(values), abs=1e-4)
    assert found["attacked"] < found["valid"]
    assert t.Validation(images=pictures, sigma=SIGMA, steps=0)(model).keys() == {"valid"}
    with pytest.raises(ValueError, match=r"images\[1\]"):
        t.Validation(images=pictures, sigma=SIGMA, crop=10)
    with pytest.raises(ValueError, match="eps"):
        t.Validation(images=pictures, sigma=SIGMA, eps=-1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": [torch.zeros(1, 9, 9, dtype=torch.uint8)]}, r"^images\[0\]: wanted a float tensor.*uint8"),
        ({"images": [torch.zeros(1, 9, 9), torch.zeros(9, 9)]}, r"^images\[1\]: wanted \(C, H, W\).*\(9, 9\)"),
        ({"images": [torch.zeros(0, 9, 9)]}, r"^images\[0\]: wanted \(C, H, W\)"),
        ({"images": [torch.full((1, 9, 9), math.inf)]}, r"^images\[0\]: wanted finite"),
        ({"images": [np.zeros((1, 9, 9))]}, r"^images\[0\]: wanted a float tensor.*ndarray"),
        ({"images": []}, "^images: wanted at least one"),
        ({"sigma": "25"}, "^sigma: wanted a number"),
        ({"sigma": 0.0}, "^sigma: wanted"),
        ({"crop": 0}, "^crop: wanted"),
        ({"crop": "8"}, "^crop: wanted"),
    ],
)
def test_bad_validations_name_the_option(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        t.Validation(**{"images": images((9, 9)), "sigma": SIGMA, **options})
