"""Pairs with a known field: what is said of them holds, and nothing but seed and id decides a bit."""

from __future__ import annotations

from dataclasses import fields as fields_of
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from fastattack.registration import (
    Synthetic,
    Truth,
    brain_template,
    dipy_slices,
    exponential,
    folded,
    jacobian_determinant,
    landmarks,
    smooth_velocity,
    warp,
)


def blobs(batch: int, *shape: int) -> tuple[Tensor, Tensor]:
    """Smooth images in [0, 1] and labels."""
    axes = np.meshgrid(*[np.linspace(0, 1, n) for n in shape], indexing="ij")
    waves = [sum(np.sin((5 + k + j) * axis + k) for j, axis in enumerate(axes)) for k in range(batch)]
    images = torch.tensor(np.stack(waves)[:, None], dtype=torch.float32)
    images = (images - images.min()) / (images.max() - images.min())
    return images, (images * 3.999).long()


def parts_of(truth: Truth) -> dict[str, Tensor]:
    return {f.name: getattr(truth, f.name) for f in fields_of(truth) if getattr(truth, f.name) is not None}


@pytest.mark.parametrize("shape", [(48, 40), (20, 22, 18)])
def test_a_batch_changes_no_bit(shape: tuple[int, ...]) -> None:
    images, labels = blobs(5, *shape)
    maker = Synthetic(scale=6, points=8, spacing=(2.0,) * len(shape))
    ids = [7, 2**40, 0, 3, 12]
    whole = maker.pairs(images, labels, seed=5, ids=ids)
    for rows in ([0], [1, 2], [4, 3, 0]):
        some = maker.pairs(images[rows], labels[rows], seed=5, ids=[ids[k] for k in rows])
        assert torch.equal(some.pair, whole.pair[rows])
        parts = parts_of(some.truth)
        assert len(parts) == 7
        for name, part in parts.items():
            assert torch.equal(part, getattr(whole.truth, name)[rows]), name


def test_threads_change_no_bit() -> None:
    images, labels = blobs(3, 64, 64)
    kept, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(Synthetic().pairs(images, labels, seed=1, ids=[1, 2, 3]))
    finally:
        torch.set_num_threads(kept)
    assert torch.equal(found[0].pair, found[1].pair)
    for name, part in parts_of(found[0].truth).items():
        assert torch.equal(part, getattr(found[1].truth, name)), name


def test_seed_and_id_decide_all_draws() -> None:
    image = blobs(1, 32, 32)[0]
    pairs = [Synthetic().pairs(image, seed=s, ids=[k]) for s, k in ((0, 0), (0, 1), (1, 0))]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert not torch.equal(pairs[a].pair[:, 0], pairs[b].pair[:, 0])
        assert not torch.equal(pairs[a].truth.field, pairs[b].truth.field)


def test_the_true_field_brings_the_moving_image_to_the_fixed_one() -> None:
    images, labels = blobs(4, 64, 64)
    plain = Synthetic(contrast="none", bias=0, noise=0)
    pair, truth = plain.pairs(images, labels, seed=0, ids=range(4))
    assert torch.equal(pair[:, 1:], images)
    before = (pair[:, :1] - images).abs().mean()
    grid = np.stack(np.meshgrid(np.arange(64), np.arange(64), indexing="ij")).astype(np.float64)
    for k in range(4):
        places = grid + truth.field[k].double().numpy()
        back = map_coordinates(pair[k, 0].double().numpy(), places, order=1, mode="nearest")
        assert np.abs(back - images[k, 0].numpy()).mean() < 0.05 * before
        classes = map_coordinates(truth.labels_moving[k, 0].numpy(), places, order=0, mode="nearest")
        assert (classes == labels[k, 0].numpy()).mean() > 0.97
    assert torch.equal(truth.mask, labels > 0)


def test_landmarks_are_moved_by_the_field() -> None:
    images, labels = blobs(3, 48, 56)
    truth = Synthetic(points=12).pairs(images, labels, seed=0, ids=range(3)).truth
    assert truth.landmarks.shape == (3, 12, 2)
    for k in range(3):
        for point, moved in zip(truth.landmarks[k].double(), truth.landmarks_moved[k].double(), strict=True):
            assert truth.mask[k, 0][tuple(point.long())]
            u = [map_coordinates(c, point[:, None].numpy(), order=1)[0] for c in truth.field[k].double().numpy()]
            np.testing.assert_allclose(moved.numpy() - point.numpy(), u, atol=1e-5)


def test_no_default_field_folds() -> None:
    velocity = smooth_velocity((96, 96), amplitude=6.0, scale=10, seed=3, ids=range(50))
    assert velocity.square().sum(1).amax((1, 2)).sqrt().sub(6).abs().max() < 1e-4
    field = exponential(velocity)
    assert not folded(field).any()
    assert jacobian_determinant(field).min() > 0.3
    edge = torch.cat([field[:, :, [0, -1]].flatten(2), field[:, :, :, [0, -1]].flatten(2)], 2)
    assert edge.abs().max() == 0
    largest = field.square().sum(1).amax((1, 2)).sqrt()
    assert largest.min() > 3
    assert largest.max() <= 6.001


def test_amplitude_from_an_interval() -> None:
    velocity = smooth_velocity((32, 32), amplitude=(1.0, 3.0), scale=6, seed=0, ids=range(200))
    largest = velocity.square().sum(1).amax((1, 2)).sqrt()
    assert 1 <= largest.min() < 1.1
    assert 2.9 < largest.max() <= 3.0001
    assert abs(float(largest.mean()) - 2) < 0.15


def test_velocities_are_as_smooth_as_their_scale() -> None:
    """White noise under a Gaussian of deviation s is correlated by exp(-r^2 / (4 s^2)) over r voxels."""
    scale = 5
    inner = smooth_velocity((120, 120), amplitude=1.0, scale=scale, seed=0, ids=range(40))[
        :, :, 30:-30, 30:-30
    ].double()
    for r in (3, 6, 9):
        for axis in (2, 3):
            a, b = inner.narrow(axis, 0, 60 - r), inner.narrow(axis, r, 60 - r)
            correlation = (a * b).sum() / (a.square().sum() * b.square().sum()).sqrt()
            assert abs(float(correlation) - np.exp(-r * r / (4 * scale**2))) < 0.06


def test_contrast() -> None:
    ramp = torch.linspace(0, 1, 401).expand(1, 1, 8, 401)
    still: dict[str, Any] = {"amplitude": 0.0, "bias": 0, "noise": 0, "points": 0}
    plain = Synthetic(contrast="none", **still).pairs(ramp, seed=0, ids=[0]).pair
    torch.testing.assert_close(plain[:, :1], ramp, atol=1e-6, rtol=0)
    many = ramp.expand(60, -1, -1, -1)
    curves = Synthetic(contrast="random", **still).pairs(many, seed=0, ids=range(60)).pair[:, 0, 0]
    assert (curves[:, 0] == 0).all()
    tissue = curves[:, 160:]  # grey values from 0.4
    torch.testing.assert_close(tissue.amax(1), torch.full((60,), 0.9), atol=1e-4, rtol=0)
    torch.testing.assert_close(tissue.amin(1), torch.full((60,), 0.1), atol=1e-4, rtol=0)
    steps = tissue.diff(dim=1)
    both = (steps.amin(1) < -1e-4) & (steps.amax(1) > 1e-4)
    assert 0.7 < both.float().mean() < 1  # 2 of 24 orders of four values rise or fall all the way
    assert steps.abs().max() < 0.03  # smooth
    t2 = Synthetic(contrast="t2", **still).pairs(many, seed=0, ids=range(60)).pair[:, 0, 0]
    assert (t2[:, 80:].diff(dim=1) <= 1e-6).all()
    assert (t2[:, 80] > 0.85).all()


def test_bias_and_noise() -> None:
    flat = torch.full((8, 1, 48, 48), 0.5)
    still: dict[str, Any] = {"amplitude": 0.0, "contrast": "none", "points": 0}
    biased = Synthetic(bias=0.2, noise=0, **still).pairs(flat, seed=0, ids=range(8)).pair[:, 0] / 0.5 - 1
    torch.testing.assert_close(biased.abs().amax((1, 2)), torch.full((8,), 0.2), atol=1e-6, rtol=0)
    assert biased.diff(dim=1).abs().max() < 0.03
    noisy = Synthetic(bias=0, noise=0.05, **still).pairs(flat, seed=0, ids=range(8)).pair[:, 0] - 0.5
    assert abs(float(noisy.std()) - 0.05) < 1e-3
    assert abs(float(noisy.mean())) < 1e-3


def test_landmarks_are_corners() -> None:
    image = torch.zeros(1, 1, 40, 40)
    image[..., 10:30, 12:28] = 1
    found = landmarks(image, torch.ones_like(image, dtype=torch.bool), 4)[0]
    for corner in ((9.5, 11.5), (9.5, 27.5), (29.5, 11.5), (29.5, 27.5)):
        assert (found - torch.tensor(corner)).norm(dim=1).min() < 1.5
    solid = torch.zeros(1, 1, 24, 24, 24)
    solid[..., 6:18, 7:17, 8:16] = 1
    eight = landmarks(solid, torch.ones_like(solid, dtype=torch.bool), 8)[0]
    for corner in ((5.5, 6.5, 7.5), (17.5, 16.5, 15.5), (5.5, 16.5, 7.5)):
        assert (eight - torch.tensor(corner)).norm(dim=1).min() < 3


def test_landmarks_lie_in_the_mask_and_apart() -> None:
    images, _ = blobs(2, 40, 40)
    masks = torch.zeros_like(images, dtype=torch.bool)
    masks[..., 5:15, 8:30] = True
    found = landmarks(images, masks, 20)
    for k in range(2):
        assert masks[k, 0][tuple(found[k].long().T)].all()
        apart = torch.pdist(found[k])
        assert apart.min() >= 1
    with pytest.raises(ValueError, match="masks: wanted 300 voxels at least for as many landmarks, got 220 in 0"):
        landmarks(images, masks, 300)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"amplitude": (3, 1)}, "amplitude"),
        ({"amplitude": -1.0}, "amplitude"),
        ({"scale": 0}, "scale"),
        ({"contrast": "ct"}, "contrast: wanted one of random, t2, none, got 'ct'"),
        ({"bias": 1.0}, "bias"),
        ({"noise": -0.1}, "noise"),
        ({"points": -1}, "points"),
        ({"spacing": (1.0, 0.0)}, "spacing"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Synthetic(**options)


def test_images_that_cannot_be() -> None:
    images, labels = blobs(2, 24, 24)
    make = Synthetic(points=4).pairs
    with pytest.raises(ValueError, match="images: wanted values in"):
        make(images * 2, seed=0, ids=[0, 1])
    with pytest.raises(ValueError, match=r"images: wanted \(B, 1"):
        make(images.expand(2, 3, 24, 24), seed=0, ids=[0, 1])
    with pytest.raises(TypeError, match="images: wanted a floating"):
        make(labels, seed=0, ids=[0, 1])
    with pytest.raises(TypeError, match="labels: wanted integers"):
        make(images, images, seed=0, ids=[0, 1])
    with pytest.raises(ValueError, match="masks: wanted"):
        make(images, labels, labels[:1] > 0, seed=0, ids=[0, 1])
    with pytest.raises(ValueError, match="ids: wanted 2 integers"):
        make(images, seed=0, ids=[0])
    with pytest.raises(ValueError, match="spacing: wanted 2 lengths"):
        Synthetic(spacing=(1.0, 1.0, 1.0)).pairs(images, seed=0, ids=[0, 1])


def test_the_template() -> None:
    pytest.importorskip("nilearn")
    pytest.importorskip("nibabel")
    volume = brain_template(mm=4)
    assert volume.images.shape == (1, 1, 49, 58, 47)
    assert volume.spacing == (4.0, 4.0, 4.0)
    assert 1400 < float(volume.masks.sum()) * 0.064 < 2000  # ml: a head's
    assert set(volume.labels.unique().tolist()) == {0, 1, 2, 3}
    tissue = [float(volume.images[volume.labels == k].mean()) for k in (1, 2, 3)]
    assert tissue == sorted(tissue)  # of T1: fluid is dark, white matter bright
    sets = {split: brain_template("axial", mm=4, size=(48, 56), split=split) for split in ("all", "train", "held-out")}
    for found in sets.values():
        assert found.images.shape == found.labels.shape == found.masks.shape == (len(found), 1, 48, 56)
    train, held = (sets[split].positions for split in ("train", "held-out"))
    assert (train[:, None] - held[None]).abs().min() > 4
    assert len(train) > len(held) > 3
    assert len(train) + len(held) < len(sets["all"])
    sides = {split: brain_template("sagittal", mm=4, split=split).positions.abs() for split in ("train", "held-out")}
    assert (sides["train"][:, None] - sides["held-out"][None]).abs().min() > 4  # mirror images too
    with pytest.raises(ValueError, match="plane: wanted one of sagittal, coronal, axial or None"):
        brain_template("oblique")
    with pytest.raises(ValueError, match="split: wanted"):
        brain_template(split="train")
    with pytest.raises(ValueError, match="size: wanted 2 numbers"):
        brain_template("axial", mm=4, size=(48, 48, 48))


def test_a_volume_makes_pairs() -> None:
    pytest.importorskip("nilearn")
    pytest.importorskip("nibabel")
    volume = brain_template(mm=8, size=(24, 24, 20))
    pair, truth = Synthetic(amplitude=2.0, scale=5, points=10, spacing=volume.spacing).pairs(
        volume.images, volume.labels, volume.masks, seed=0, ids=[0]
    )
    assert pair.shape == (1, 2, 24, 24, 20)
    assert not folded(truth.field).any()
    assert truth.spacing.tolist() == [[8, 8, 8]]
    before = (truth.labels_moving == truth.labels_fixed).float().mean()
    after = warp(truth.labels_moving.float(), truth.field, mode="nearest") == truth.labels_fixed
    assert before < after.float().mean()


def test_labels_stay_whole_numbers() -> None:
    labels = torch.full((1, 1, 24, 24), 2**24 + 1)
    _, truth = Synthetic(points=0).pairs(torch.rand(1, 1, 24, 24), labels, seed=0, ids=[0])
    assert torch.equal(truth.labels_moving, labels)


@pytest.mark.parametrize(("name", "slices"), [("t1", 1), ("b0", 10)])
def test_slices_of_other_heads(name: str, slices: int) -> None:
    pytest.importorskip("dipy")
    pytest.importorskip("nibabel")
    found = dipy_slices(name)
    assert found.images.shape == (slices, 1, 96, 96)
    assert 0 <= found.images.min() < found.images.max() <= 1
    assert 0.2 < found.masks.float().mean() < 0.6
    fluid, white = (float(found.images[found.labels == k].mean()) for k in (1, 3))
    assert (fluid < white) == (name == "t1")
    with pytest.raises(ValueError, match="name: wanted 't1' or 'b0'"):
        dipy_slices("t3")


def test_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nilearn", None)
    with pytest.raises(RuntimeError, match=r"pip install 'fastattack\[registration-data\]'"):
        brain_template()
