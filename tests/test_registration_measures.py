"""Smoothness, overlap and the measures of a field: closed forms, NumPy and SciPy in float64, numbers made by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from scipy import ndimage

from fastattack.guard import rows_of
from fastattack.registration import (
    Measures,
    Truth,
    bending_energy,
    dice,
    displacement_at,
    folded,
    gradient_penalty,
    measure,
    soft_dice,
    warp_labels,
)
from fastattack.registration.overlap import labels_of, one_hot

SHAPES = [(7, 9), (5, 6, 8)]
MM = {2: (0.5, 3.0), 3: (2.0, 1.0, 0.25)}  # of each axis another


def places(shape: tuple[int, ...]) -> np.ndarray:
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).astype(float)


def field_of(values: np.ndarray) -> torch.Tensor:
    """(*shape, d) to (1, d, *shape)."""
    return torch.from_numpy(np.moveaxis(values, -1, 0)[None].copy())


@pytest.mark.parametrize("shape", SHAPES)
def test_smoothness_of_an_affine_field(shape):
    d = len(shape)
    matrix, mm = np.random.default_rng(0).standard_normal((d, d)), np.array(MM[d])
    field = field_of(places(shape) @ matrix.T + 5)
    slopes = matrix * mm[:, None] / mm  # component i in mm, along axis k in mm
    assert gradient_penalty(field, MM[d]).tolist() == pytest.approx([np.square(slopes).sum()])
    assert gradient_penalty(field).tolist() == pytest.approx([np.square(matrix).sum()])
    assert bending_energy(field, MM[d]).tolist() == pytest.approx([0], abs=1e-20)


@pytest.mark.parametrize("shape", SHAPES)
def test_bending_of_a_quadratic_field(shape):
    """u_i = p' Q_i p / 2: its second derivatives are Q_i, and differences find them exactly."""
    d = len(shape)
    bends, mm = np.random.default_rng(1).standard_normal((d, d, d)), np.array(MM[d])
    bends = bends + bends.transpose(0, 2, 1)
    field = field_of(np.einsum("...k,ikl,...l->...i", places(shape), bends, places(shape)) / 2)
    expected = np.square(bends * mm[:, None, None] / mm[:, None] / mm).sum()
    assert bending_energy(field, MM[d]).tolist() == pytest.approx([expected])
    assert bending_energy(field).tolist() == pytest.approx([np.square(bends).sum()])


@pytest.mark.parametrize("shape", SHAPES)
def test_smoothness_by_definition(shape):
    """Of random fields, each sample with its own spacing."""
    d = len(shape)
    field = torch.randn(2, d, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    mm = torch.tensor([MM[d], MM[d][::-1]])
    slopes, bends = gradient_penalty(field, mm), bending_energy(field, mm)
    for b in range(2):
        s = mm[b].numpy()
        u = field[b].numpy() * s.reshape(-1, *[1] * d)
        one = sum(np.square(np.diff(u, axis=1 + k) / s[k]).mean() * d for k in range(d))
        two = sum(
            np.square(np.diff(np.diff(u, axis=1 + k), axis=1 + m) / s[k] / s[m]).mean() * d
            for k in range(d)
            for m in range(d)
        )
        assert slopes[b].item() == pytest.approx(one)
        assert bends[b].item() == pytest.approx(two)
        torch.testing.assert_close(gradient_penalty(field[b : b + 1], s.tolist()), slopes[b : b + 1])
    assert gradient_penalty(field.half()).dtype is torch.float32


def test_smoothness_has_gradients():
    field = torch.randn(1, 2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    assert torch.autograd.gradcheck(lambda u: gradient_penalty(u, (1.0, 2.0)), field)
    assert torch.autograd.gradcheck(lambda u: bending_energy(u, (1.0, 2.0)), field)


def test_dice_by_hand():
    a = torch.tensor([[[[1, 1, 1, 2], [0, 0, 2, 2]]], [[[3, 3, 0, 0], [0, 0, 0, 0]]]])
    b = torch.tensor([[[[1, 1, 2, 2], [0, 0, 0, 0]]], [[[0, 0, 3, 3], [1, 0, 0, 0]]]])
    found = dice(a, b, labels=(1, 2, 3))
    assert found.dtype is torch.float64
    nan = float("nan")
    np.testing.assert_allclose(found.numpy(), [[4 / 5, 2 / 5, nan], [0, nan, 0]])
    assert labels_of(a, b) == [1, 2, 3]


def test_soft_dice_of_sharp_maps_is_the_mean_of_dice():
    g = torch.Generator().manual_seed(4)
    a, b = (torch.randint(0, 4, (3, 1, 6, 7), generator=g) for _ in range(2))
    a[0], b[0] = a[0] % 3, b[0] % 3  # label 3 is not in the first sample
    soft = soft_dice(one_hot(a, (1, 2, 3), torch.float64), one_hot(b, (1, 2, 3), torch.float64))
    torch.testing.assert_close(soft, dice(a, b, labels=(1, 2, 3)).nanmean(1))
    assert dice(a, b, labels=(1, 2, 3))[0].isnan().tolist() == [False, False, True]
    none = soft_dice(torch.zeros(2, 1, 4), torch.tensor([[[0.0, 1, 1, 0]], [[0, 0, 0, 0]]]))
    assert none[0] == 0
    assert none[1].isnan()


def test_soft_dice_has_gradients():
    g = torch.Generator().manual_seed(5)
    a, b = (torch.rand(2, 2, 3, 4, dtype=torch.float64, generator=g).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(soft_dice, (a, b))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool])
def test_labels_are_warped_whole(dtype):
    """2^24 + 1 is no number of float32; a half-way place takes no mean."""
    high = torch.iinfo(dtype).max if dtype in (torch.uint8, torch.int16) else 2**24 + 1
    labels = torch.tensor([0, 1, high, 3]).to(dtype).view(1, 1, 1, 4).expand(-1, -1, 3, -1)
    field = torch.zeros(1, 2, 3, 4)
    field[:, 1] = 0.9
    found = warp_labels(labels, field)
    assert found.dtype is dtype
    assert found[0, 0, 1].tolist() == labels[0, 0, 1, [1, 2, 3, 3]].tolist()


@pytest.mark.parametrize("shape", SHAPES)
def test_displacements_between_voxels_are_scipys(shape):
    g = np.random.default_rng(6)
    field = torch.from_numpy(g.standard_normal((2, len(shape), *shape)))
    points = g.uniform(0, np.array(shape) - 1, (2, 11, len(shape)))
    points[:, 0], points[:, 1] = 0, np.array(shape) - 1
    found = displacement_at(field, torch.from_numpy(points))
    for b in range(2):
        expected = [ndimage.map_coordinates(u, points[b].T, order=1) for u in field[b].numpy()]
        np.testing.assert_allclose(found[b].numpy(), np.transpose(expected), atol=1e-12)


def truth_and_field(shape: tuple[int, ...]) -> tuple[torch.Tensor, Truth]:
    g, d = torch.Generator().manual_seed(7), len(shape)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=g)

    last = torch.tensor(shape) - 1.0
    truth = Truth(
        field=normal(2, d, *shape),
        mask=torch.rand(2, 1, *shape, generator=g) > 0.4,
        landmarks=torch.rand(2, 5, d, generator=g) * last,
        landmarks_moved=torch.rand(2, 5, d, generator=g) * last,
        labels_moving=torch.randint(0, 4, (2, 1, *shape), generator=g),
        labels_fixed=torch.randint(0, 4, (2, 1, *shape), generator=g, dtype=torch.int32),
        spacing=torch.tensor([MM[d], MM[d][::-1]]),
    )
    return normal(2, d, *shape), truth


@pytest.mark.parametrize("shape", SHAPES)
def test_measures_by_definition(shape):
    d = len(shape)
    field, truth = truth_and_field(shape)
    found = measure(field.requires_grad_(), truth)
    u = field.detach().double().numpy()
    for b in range(2):
        mm = truth.spacing[b].double().numpy()
        apart = np.sqrt(np.square((u[b] - truth.field[b].numpy()) * mm.reshape(-1, *[1] * d)).sum(0))
        assert found.field_error[b].item() == pytest.approx(apart[truth.mask[b, 0].numpy()].mean())

        p, q = truth.landmarks[b].double().numpy(), truth.landmarks_moved[b].double().numpy()
        moved = p + np.transpose([ndimage.map_coordinates(c, p.T, order=1) for c in u[b]])
        assert found.tre[b].item() == pytest.approx(np.sqrt(np.square((moved - q) * mm).sum(1)).mean())

        warped = ndimage.map_coordinates(
            truth.labels_moving[b, 0].numpy(), np.indices(shape) + u[b], order=0, mode="nearest"
        )
        fixed = truth.labels_fixed[b, 0].numpy()
        shares = [
            2 * ((warped == k) & (fixed == k)).sum() / ((warped == k).sum() + (fixed == k).sum()) for k in (1, 2, 3)
        ]
        assert found.dice[b].item() == pytest.approx(np.mean(shares))

        one_sided = []  # of each axis: forward and backward differences, the last one repeated
        for k in range(1, d + 1):
            steps = np.diff(u[b], axis=k)
            first, last = np.take(steps, [0], k), np.take(steps, [-1], k)
            one_sided.append((np.concatenate([steps, last], k), np.concatenate([first, steps], k)))
        least = min(
            np.linalg.det(np.moveaxis(np.stack(chosen, 1), (0, 1), (-2, -1)) + np.eye(d)).min()
            for chosen in product(*one_sided)
        )
        assert found.least_determinant[b].item() == pytest.approx(least)
        assert found.folded[b].item() == pytest.approx(folded(field)[b].double().mean().item())
    for part in vars(found).values():
        assert part.shape == (2,)
        assert part.dtype is torch.float64
        assert not part.requires_grad


def test_a_perfect_field():
    """Moving and fixed by a translation of 2 rows: warped(p) = moving(p + 2)."""
    labels = torch.zeros(1, 1, 11, 8, dtype=torch.int64)
    labels[:, :, 3:6, 2:5], labels[:, :, 6, 2:5] = 1, 7
    moving = labels.roll(2, 2)
    field = torch.zeros(1, 2, 11, 8)
    field[:, 0] = 2
    points = torch.tensor([[[3.0, 2.5], [5.5, 4]]])
    known = Truth(field=field, landmarks=points, landmarks_moved=points + torch.tensor([2.0, 0]), labels_moving=moving,
                  labels_fixed=labels, spacing=torch.tensor([[3.0, 0.5]]))  # fmt: skip
    found = measure(field, known)
    assert found.field_error.item() == found.tre.item() == found.folded.item() == 0
    assert found.dice.item() == found.least_determinant.item() == 1
    still = measure(torch.zeros_like(field), known)
    assert still.field_error.item() == pytest.approx(6)  # 2 rows of 3 mm
    assert still.tre.item() == pytest.approx(6)
    assert still.dice.item() == pytest.approx((2 * 3 / 18 + 0) / 2)


def test_what_is_not_known_is_not_measured():
    found = measure(torch.zeros(2, 2, 5, 5), Truth())
    assert found.field_error is found.tre is found.dice is None
    assert found.folded.tolist() == [0, 0]
    assert found.least_determinant.tolist() == [1, 1]


def test_an_empty_mask_and_no_labels_are_nan():
    mask = torch.zeros(2, 1, 5, 5, dtype=torch.bool)
    mask[1] = True
    labels = torch.zeros(2, 1, 5, 5, dtype=torch.int64)
    field = torch.zeros(2, 2, 5, 5)
    known = Truth(field=field + 1, mask=mask, labels_moving=labels, labels_fixed=labels)
    found = measure(field, known)
    assert found.field_error[0].isnan()
    assert found.field_error[1].item() == pytest.approx(2**0.5)
    assert found.dice.isnan().all()


def test_measures_are_cut_with_the_samples():
    field, truth = truth_and_field((7, 9))
    both = measure(field, truth)
    for rows in (slice(0, 1), slice(1, 2)):
        one = measure(field[rows], rows_of(truth, rows, 2))
        for name, part in vars(rows_of(both, rows, 2)).items():
            torch.testing.assert_close(getattr(one, name), part)
    assert isinstance(both, Measures)


def test_bad_input_is_named():
    field, truth = truth_and_field((7, 9))

    def changed(**parts: object) -> Truth:
        return Truth(**{**vars(truth), **parts})

    points, moved, labels = truth.landmarks, truth.landmarks_moved, truth.labels_moving
    for part, value, error, message in (
        ("field", truth.field[..., 1:], ValueError, r"wanted the shape \(2, 2, 7, 9\) of the field"),
        ("field", 3.0, TypeError, r"wanted a tensor, got float"),
        ("mask", truth.mask[:, 0], ValueError, r"wanted \(2, 1, 7, 9\) as the field is"),
        ("landmarks", points[0], ValueError, r"wanted \(2, N, 2\)"),
        ("landmarks", points + 7, ValueError, r"wanted places on the grid, from 0 to \[6, 8\]"),
        ("landmarks", points / 0, ValueError, r"wanted places on the grid"),
        (
            "landmarks_moved",
            None,
            ValueError,
            r"wanted a tensor, got None; known are field, mask, landmarks, labels_mov",
        ),
        ("landmarks_moved", moved[:, 1:], ValueError, r"wanted \(2, 5, 2\) as the landmarks are"),
        ("labels_fixed", labels / 2, TypeError, r"wanted a tensor of integers"),
        ("labels_fixed", labels[..., 1:], ValueError, r"wanted \(2, 1, 7, 9\) as the field is"),
        ("labels_moving", labels[:, 0], ValueError, r"wanted \(2, 1, 7, 9\) as the field is"),
        ("spacing", torch.ones(2, 3), ValueError, r"wanted 2 numbers in mm, or \(2, 2\)"),
        ("spacing", -torch.ones(2, 2), ValueError, r"wanted finite numbers above 0"),
    ):
        with pytest.raises(error, match=rf"^truth\.{part}: {message}"):
            measure(field, changed(**{part: value}))

    for error, message, call in (
        (TypeError, r"^truth: wanted a fastattack.registration.Truth, got dict", lambda: measure(field, {})),
        (ValueError, r"^field: wanted finite", lambda: measure(field / 0, truth)),
        (ValueError, r"^spacing: wanted finite numbers above 0", lambda: gradient_penalty(field, (1.0, 0.0))),
        (ValueError, r"^field: wanted three voxels", lambda: bending_energy(field[:, :, :2])),
        (ValueError, r"^field: wanted two voxels", lambda: gradient_penalty(field[:, :, :1])),
        (TypeError, r"^labels: wanted the labels that count", lambda: dice(labels, labels, labels=3)),
        (ValueError, r"^labels: wanted whole numbers", lambda: dice(labels, labels, labels=())),
        (TypeError, r"^a: wanted a tensor of integers", lambda: dice(field, field, labels=(1,))),
        (ValueError, r"^b: wanted the shape", lambda: dice(labels, labels[:1], labels=(1,))),
        (TypeError, r"^labels: wanted a tensor of integers", lambda: warp_labels(field, field)),
        (ValueError, r"^labels: wanted \(2, 1, 7, 9\) as the field is", lambda: warp_labels(labels[:1], field)),
        (TypeError, r"^one_hot_a: wanted a floating", lambda: soft_dice(labels, field)),
        (ValueError, r"^one_hot_b: wanted", lambda: soft_dice(field, field[:1])),
    ):
        with pytest.raises(error, match=message):
            call()
