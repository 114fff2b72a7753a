"""Objectives of registration: against the measures, by finite differences, and climbed by attacks."""

from __future__ import annotations

import importlib
import math
import os
import pickle
import sys

import pytest
import torch
from torch import nn

import fastattack as fa
from fastattack.guard import rows_of
from fastattack.objectives import registration
from fastattack.registration import Truth, dice, folded, measure, warp
from fastattack.registration.overlap import one_hot

SHAPES = [(6, 7), (4, 3, 5)]
ALL = [
    registration.field_error(),
    registration.target_registration_error(),
    registration.overlap(),
    registration.folding(),
]


def case(shape: tuple[int, ...], reach: float = 0.7) -> tuple[torch.Tensor, Truth]:
    g, d = torch.Generator().manual_seed(0), len(shape)
    last = torch.tensor(shape) - 1.0
    truth = Truth(
        field=torch.randn(2, d, *shape, generator=g),
        mask=torch.rand(2, 1, *shape, generator=g) > 0.4,
        landmarks=torch.rand(2, 5, d, generator=g) * last,
        landmarks_moved=torch.rand(2, 5, d, generator=g) * last,
        labels_moving=torch.randint(0, 4, (2, 1, *shape), generator=g),
        labels_fixed=torch.randint(0, 4, (2, 1, *shape), generator=g),
        spacing=torch.tensor([[0.5, 3.0, 2.0][:d], [1.0, 1.0, 2.0][:d]]),
    )
    return reach * torch.randn(2, d, *shape, generator=g, dtype=torch.float64), truth


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("objective", ALL, ids=repr)
def test_gradients(objective, shape):
    field, truth = case(shape)
    assert torch.autograd.gradcheck(lambda u: objective(u, truth), field.requires_grad_(), fast_mode=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_errors_are_the_measures_but_for_the_softness(shape):
    field, truth = case(shape)
    found = measure(field, truth)
    for make, expected in (
        (registration.field_error, found.field_error), (registration.target_registration_error, found.tre)
    ):  # fmt: skip
        torch.testing.assert_close(make(softness=1e-9)(field, truth), expected)
        below = expected - make(softness=0.1)(field, truth)
        assert ((below > 0) & (below < 0.1)).all()


def test_the_softened_length():
    """One displacement of (3, 4) voxels at 2 mm: 10 mm."""
    field, still = torch.tensor([3.0, 4]).view(1, 2, 1, 1).expand(-1, -1, 5, 5), torch.zeros(1, 2, 5, 5)
    truth = Truth(field=still, spacing=torch.full((1, 2), 2.0))
    expected = math.sqrt(100 + 0.25) - 0.5
    assert registration.field_error(softness=0.5)(field, truth).item() == pytest.approx(expected)


def test_an_exact_field_has_a_gradient_of_zero():
    field, truth = case((6, 7))
    exact = truth.field.clone().requires_grad_()
    loss = registration.field_error()(exact, truth)
    (grad,) = torch.autograd.grad(loss.sum(), exact)
    assert loss.tolist() == [0, 0]
    assert (grad == 0).all()
    still = torch.zeros_like(field, dtype=torch.float32).requires_grad_()
    there = Truth(landmarks=truth.landmarks, landmarks_moved=truth.landmarks)
    (grad,) = torch.autograd.grad(registration.target_registration_error()(still, there).sum(), still)
    assert (grad == 0).all()


def test_overlap_of_a_translation_by_whole_voxels_is_dice():
    _, truth = case((6, 7))
    field = torch.zeros(2, 2, 6, 7)
    field[0, 0], field[1, 1] = 2, -1
    moved = truth.labels_moving.clone()
    moved[0] = moved[0, :, [2, 3, 4, 5, 5, 5]]
    moved[1] = moved[1, :, :, [0, 0, 1, 2, 3, 4, 5]]
    expected = 1 - dice(moved, truth.labels_fixed, labels=(1, 2, 3)).mean(1)
    torch.testing.assert_close(registration.overlap()(field, truth).double(), expected)
    one = 1 - dice(moved, truth.labels_fixed, labels=(2,))[:, 0]
    torch.testing.assert_close(registration.overlap(labels=(2,))(field, truth).double(), one)


def test_overlap_warps_each_label_and_not_their_numbers():
    """Between 1 and 3 there is no 2."""
    moving = torch.tensor([1, 1, 3, 3]).view(1, 1, 1, 4).expand(-1, -1, 3, -1).contiguous()
    field = torch.zeros(1, 2, 3, 4)
    field[:, 1] = 0.5
    truth = Truth(labels_moving=moving, labels_fixed=torch.full_like(moving, 2))
    assert registration.overlap(labels=(2,))(field, truth).item() == 1
    half = warp(one_hot(moving, (1, 3)), field)[0, :, 1]
    torch.testing.assert_close(half, torch.tensor([[1, 0.5, 0, 0], [0, 0.5, 1, 1]]))


def test_folding_by_hand():
    """Rows step by (1 - 1.5) and (1 + 0.2): of the four one-sided determinants the least counts."""
    field = torch.zeros(1, 2, 3, 3)
    field[:, 0] = torch.tensor([0, -1.5, -1.3])[:, None]
    least = torch.tensor([-0.5, -0.5, 1.2])
    for margin in (0.0, 1.0, 2.0):
        expected = (margin - least).clamp(min=0).mean()
        torch.testing.assert_close(registration.folding(margin=margin)(field, None), expected.view(1))


class Net(nn.Module):
    """A small registration net; its fields do not fold."""

    def __init__(self, dims: int):
        super().__init__()
        torch.manual_seed(1)
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        self.layers = nn.Sequential(conv(2, 6, 3, padding=1), nn.Tanh(), conv(6, dims, 3, padding=1))

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        return self.layers(pair)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("objective", ALL, ids=repr)
def test_an_attack_climbs(objective, shape):
    """As the cut batch does: no sample's loss depends on the others."""
    _, truth = case(shape)
    net, pair = Net(len(shape)), torch.rand(2, 2, *shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        before = objective(net(pair), truth)
    attack = {"eps": 16 / 255, "steps": 5, "objective": objective, "seed": 3}
    both = fa.PGD(net, **attack).run(pair, truth)
    assert (both.loss > before.double() + 1e-4).all()
    single = fa.PGD(net, **attack, max_batch=1).run(pair, truth)
    torch.testing.assert_close(single.loss, both.loss, rtol=1e-4, atol=1e-6)


def test_folding_folds():
    net, pair = Net(2), torch.rand(1, 2, 12, 12, generator=torch.Generator().manual_seed(4))
    net.layers[-1].weight.data *= 3
    with torch.no_grad():
        before = folded(net(pair)).double().mean()
    attack = fa.PGD(net, eps=0.3, steps=20, objective=registration.folding(), seed=5)
    with torch.no_grad():
        assert folded(net(attack(pair, Truth()))).double().mean() > before + 0.1


@pytest.mark.parametrize("objective", ALL, ids=repr)
def test_objectives_are_values(objective):
    assert pickle.loads(pickle.dumps(objective)) == objective
    assert fa.objectives.registration.folding(margin=0.5) != registration.folding()
    field, truth = case((6, 7))
    assert objective(field.half(), truth).dtype is torch.float32
    torch.testing.assert_close(objective(field[1:], rows_of(truth, slice(1, 2), 2)), objective(field, truth)[1:])


@pytest.mark.parametrize(
    ("objective", "part", "parts"),
    [
        (ALL[0], "field", {}),
        (ALL[1], "landmarks", {}),
        (ALL[1], "landmarks_moved", {"landmarks": torch.zeros(2, 1, 2)}),
        (ALL[2], "labels_moving", {}),
        (ALL[2], "labels_fixed", {"labels_moving": torch.ones(2, 1, 6, 7, dtype=torch.int64)}),
    ],
)
def test_a_part_that_is_missing_is_named(objective, part, parts):
    with pytest.raises(ValueError, match=rf"^truth\.{part}: wanted a tensor, got None; known are"):
        objective(torch.zeros(2, 2, 6, 7), Truth(**parts))


def test_bad_input_is_named():
    field, truth = case((6, 7))
    for objective in ALL:
        with pytest.raises(ValueError, match=r"^model: wanted a floating tensor \(B, 2, H, W\)"):
            objective(field[:, :1], truth)
    with pytest.raises(TypeError, match=r"^truth: wanted a fastattack.registration.Truth, got Tensor"):
        ALL[0](field, truth.field)
    background = torch.zeros(2, 1, 6, 7, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"^truth.labels_moving: wanted a label other than 0"):
        ALL[2](field, Truth(labels_moving=background, labels_fixed=background))
    for make, name, value in (
        (registration.field_error, "softness", 0), (registration.target_registration_error, "softness", -1.0),
        (registration.folding, "margin", math.nan), (registration.overlap, "labels", ()),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=rf"^{name}: wanted"):
            make(**{name: value})


@pytest.mark.parametrize("first", ["fastattack.objectives.registration", "fastattack.registration.attacking"])
def test_either_module_may_be_imported_first(first):
    """Registration imports attacks, which import objectives; those of registration import registration."""
    child = os.fork()
    if child == 0:  # as in a fresh process, but for torch and the rest of the package
        try:
            for name in [n for n in sys.modules if n.startswith(("fastattack.objectives", "fastattack.registration"))]:
                del sys.modules[name]
            fresh = importlib.import_module(first)
            os._exit(0 if fresh not in (registration, None) and fa.objectives.registration.folding else 1)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
