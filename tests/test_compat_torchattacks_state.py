"""torchattacks' names on our engine: normalisation, modes, types and random numbers at their edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fastattack.compat.torchattacks as ours
from tests.test_compat_torchattacks import CASES, CLASSES, MEAN, STD, batch, net, same_seed, theirs

__all__ = ["net", "theirs"]  # fixtures

CIFAR = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def normalised(images: torch.Tensor, mean: Any = MEAN, std: Any = STD) -> torch.Tensor:
    mean, std = (torch.tensor(v, dtype=images.dtype).view(1, 3, 1, 1) for v in (mean, std))
    return (images - mean) / std


@pytest.mark.parametrize("name", ["FGSM", "PGD", "PGDL2", "MIFGSM"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_black_and_white_pixels_whose_normalisation_rounds_outward(net, theirs, name, dtype):
    images, labels = batch()
    images, net = normalised(images.round().to(dtype), *CIFAR), net.to(dtype)
    found = []
    for lib in (theirs, ours):
        attack = CASES[name](lib, net)
        attack.set_normalization_used(*CIFAR)
        found.append(same_seed(attack, images, labels))
    assert (found[1] - found[0]).abs().max() <= 1e-5


def test_normalised_images_far_outside_are_refused(net):
    images, labels = batch()
    attack = ours.FGSM(net)
    attack.set_normalization_used(*CIFAR)
    with pytest.raises(ValueError, match=r"inputs: wanted images in \[0, 1\].*are mean and std those"):
        attack(normalised(images, *CIFAR) * 1.01, labels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_normalised_images_keep_their_type(net, dtype):
    images, labels = batch()
    attack = ours.PGD(net.to(dtype), 0.1, 0.05, 3)
    attack.set_normalization_used(np.array(MEAN), np.array(STD))
    found = attack(normalised(images).to(dtype), labels)
    assert found.dtype is dtype
    moved = (found.float() - normalised(images)) * torch.tensor(STD).view(1, 3, 1, 1)
    assert 0.05 < moved.abs().max() <= 0.11


def test_numpy_s_double_mean_and_std_do_not_widen_the_images(net):
    images, labels = batch()
    attack, plain = ours.FGSM(net), ours.FGSM(net)
    attack.set_normalization_used(np.array(MEAN), np.array(STD))
    plain.set_normalization_used(MEAN, STD)
    found = attack(normalised(images), labels)
    assert found.dtype is torch.float32
    torch.testing.assert_close(found, plain(normalised(images), labels))


def test_mean_and_std_are_those_of_the_call(net):
    mean = torch.tensor(MEAN)
    attack = ours.FGSM(net)
    attack.set_normalization_used(mean, torch.tensor(STD))
    mean.zero_()
    assert attack.normalization_used["mean"].flatten().tolist() == torch.tensor(MEAN).tolist()


def test_modes_are_as_asked_also_of_normalised_images(net):
    seen: list[list[bool]] = []
    net.first.register_forward_hook(lambda *_: seen.append([net.training, net.norm.training, net.drop.training]))
    images, labels = batch()
    attack = ours.FGSM(net)
    attack.set_normalization_used(MEAN, STD)
    attack.set_model_training_mode(True, False, False)
    attack(normalised(images), labels)
    assert seen
    assert all(modes == [True, False, False] for modes in seen)


class OwnLogits(ours.PGD):
    def get_logits(self, inputs, labels=None, *args, **kwargs):
        return self.model(inputs)


@pytest.mark.parametrize(
    "make",
    [
        lambda m: ours.TPGD(m, steps=2),
        lambda m: OwnLogits(m, steps=2),
        lambda m: ours.MultiAttack([ours.FGSM(m), ours.PGD(m, steps=1)]),
        lambda m: ours.AutoAttack(m, n_classes=CLASSES, version="rand"),
    ],
    ids=["TPGD", "own logits", "MultiAttack", "AutoAttack"],
)
def test_what_batch_norms_learn_during_an_attack_is_undone(net, make):
    before = [b.clone() for b in net.train().buffers()]
    attack = make(net)
    attack.set_model_training_mode(True, True, False)
    attack(*batch())
    assert net.training
    assert all(torch.equal(now, old) for now, old in zip(net.buffers(), before, strict=True))


@pytest.mark.parametrize("name", ["FGSM", "PGD", "PGDL2", "RFGSM", "FFGSM", "TPGD", "MIFGSM", "UPGD", "GN"])
def test_the_generator_goes_on_as_after_torchattacks(net, theirs, name):
    states = []
    for lib in (theirs, ours):
        with torch.random.fork_rng([]):
            torch.manual_seed(7)
            CASES[name](lib, net)(*batch())
            states.append(torch.get_rng_state())
    assert torch.equal(*states)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
@pytest.mark.parametrize("mode", ["set_mode_targeted_least_likely", "set_mode_targeted_random"])
def test_labels_of_any_whole_type(net, mode, dtype):
    images, labels = batch()
    attack = ours.PGD(net, steps=2)
    getattr(attack, mode)(quiet=True)
    assert torch.equal(same_seed(attack, images, labels.to(dtype)), same_seed(attack, images, labels))


def test_random_targets_of_every_pixel():
    """As many images as columns: draws for each image alone would be laid along the columns."""
    model = nn.Conv2d(3, CLASSES, 3, padding=1)
    images, labels = torch.rand(8, 3, 8, 8), torch.ones(8, 8, 8, dtype=torch.long)
    attack = ours.PGD(model, steps=1)
    attack.set_mode_targeted_random(quiet=True)
    drawn = attack.get_random_target_label(images, labels)
    assert drawn.shape == labels.shape
    assert set(drawn.unique().tolist()) == {0, 2, 3, 4}
    assert len({tuple(image.flatten().tolist()) for image in drawn}) == 8
    assert drawn.float().std(1).min() > 0


@pytest.mark.parametrize("name", ["FGSM", "PGD", "CW", "Square", "APGD", "GN", "VANILA"])
def test_an_empty_batch_gives_an_empty_batch(net, theirs, name):
    images, labels = batch()
    want, got = (getattr(lib, name)(net)(images[:0], labels[:0]) for lib in (theirs, ours))
    assert got.shape == want.shape
    assert got.dtype is want.dtype


def test_numbers_of_numpy(net):
    images, labels = batch()
    found = ours.PGD(net, np.float64(0.05), np.float64(0.02), np.int64(3), False)(images, labels)
    assert torch.equal(found, ours.PGD(net, 0.05, 0.02, 3, False)(images, labels))
    single = ours.PGD(net, np.float32(0.05), np.float32(0.02), np.int32(3), False)(images, labels)
    torch.testing.assert_close(single, found)


@pytest.mark.parametrize("name", ["CW", "Square"])
def test_searches_name_outputs_that_are_no_logits(name):
    images, labels = torch.rand(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.long)
    with pytest.raises(ValueError, match=rf"model: wanted logits \(B, classes\) for {name}, got \(2, 5, 8, 8\)"):
        getattr(ours, name)(nn.Conv2d(3, 5, 3, padding=1))(images, labels)


def test_multiattack_saves_clean_images_by_torchattacks_name(net, theirs, tmp_path):
    for lib in (theirs, ours):
        attack = lib.MultiAttack([lib.FGSM(net), lib.PGD(net, steps=1)])
        attack.save([batch()], tmp_path / lib.__name__, verbose=False, return_verbose=True, save_clean_images=True)
        assert torch.equal(torch.load(tmp_path / lib.__name__, weights_only=True)["clean_inputs"], batch()[0])


def test_attacks_held_in_lists_of_lists_see_what_their_holder_sees(net):
    class Holder(ours.Attack):
        def __init__(self, model):
            super().__init__("Holder", model)
            self.stages = {"first": [[ours.FGSM(model, 0.05)]]}

        def forward(self, inputs, labels=None):
            return self.stages["first"][0][0](inputs, labels)

    images, labels = batch()
    holder, plain = Holder(net), ours.FGSM(net, 0.05)
    for attack in (holder, plain):
        attack.set_normalization_used(MEAN, STD)
    assert torch.equal(holder(normalised(images), labels), plain(normalised(images), labels))
