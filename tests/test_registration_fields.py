"""Displacement fields: against SciPy's interpolation, NumPy in float64 and closed forms (translation, affine, flow)."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from scipy import linalg, ndimage

from fastattack.registration import compose, exponential, folded, jacobian_determinant, warp
from fastattack.registration.fields import check_field, identity, least_determinant

SHAPES = [(7, 9), (5, 6, 8)]


def random_pair(shape: tuple[int, ...], seed: int = 0, reach: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (2, 3, *shape) and fields that point outside here and there."""
    g = torch.Generator().manual_seed(seed)
    image = torch.rand(2, 3, *shape, generator=g, dtype=torch.float64)
    return image, reach * torch.randn(2, len(shape), *shape, generator=g, dtype=torch.float64)


def linear(matrix: np.ndarray, shape: tuple[int, ...], centre: np.ndarray, shift: float = 0.0) -> torch.Tensor:
    """u(p) = matrix (p - centre) + shift, (1, d, *shape)."""
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return torch.from_numpy(np.moveaxis((places - centre) @ matrix.T + shift, -1, 0)[None].copy())


def middle(shape: tuple[int, ...]) -> np.ndarray:
    return (np.array(shape) - 1) / 2


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("padding", ["border", "zeros"])
def test_warp_is_scipys_interpolation(shape, padding):
    image, field = random_pair(shape)
    found = warp(image, field, padding=padding).numpy()
    for b, c in product(range(2), range(3)):
        places = np.indices(shape) + field[b].numpy()
        border = {"border": "nearest", "zeros": "grid-constant"}[padding]
        expected = ndimage.map_coordinates(image[b, c].numpy(), places, order=1, mode=border)
        np.testing.assert_allclose(found[b, c], expected, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_warp_by_the_nearest_voxel(shape):
    image, field = random_pair(shape)
    found = warp(image, field, mode="nearest").numpy()
    for b, c in product(range(2), range(3)):
        places = np.indices(shape) + field[b].numpy()
        expected = ndimage.map_coordinates(image[b, c].numpy(), places, order=0, mode="nearest")
        np.testing.assert_array_equal(found[b, c], expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_channel_moves_along_its_own_axis(axis):
    image, field = random_pair((5, 6, 8))
    field = torch.zeros_like(field)
    field[:, axis] = 2
    rows = (torch.arange(image.shape[2 + axis]) + 2).clamp(max=image.shape[2 + axis] - 1)
    torch.testing.assert_close(warp(image, field), image.index_select(2 + axis, rows))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_warp_keeps_the_type_and_places_in_float32(dtype):
    """In half precision the 1001st row would be a neighbour's."""
    image = torch.arange(1200, dtype=torch.float32).div(1200).view(1, 1, 1200, 1).expand(-1, -1, -1, 4).to(dtype)
    found = warp(image, torch.zeros(1, 2, 1200, 4, dtype=dtype))
    assert found.dtype is dtype
    torch.testing.assert_close(found, image, atol=1e-3 if dtype is torch.bfloat16 else 1e-6, rtol=0)


def test_an_axis_of_one_voxel():
    image = torch.rand(1, 1, 1, 5)
    torch.testing.assert_close(warp(image, torch.zeros(1, 2, 1, 5)), image)
    torch.testing.assert_close(warp(image, torch.full((1, 2, 1, 5), 0.0).index_fill(1, torch.tensor([0]), 3)), image)


@pytest.mark.parametrize("shape", [(5, 4), (3, 4, 3)])
def test_gradients_of_a_warp(shape):
    image, field = random_pair(shape, reach=0.4)
    image, field = image[:1, :1], field[:1]
    assert torch.autograd.gradcheck(warp, (image.requires_grad_(), field.requires_grad_()))


@pytest.mark.parametrize("shape", [(21, 17), (11, 13, 12)])
def test_composed_affine_fields_are_the_affine_map_of_both(shape):
    """first(second(p)): the matrices multiply in this order, which the other order would not give."""
    g, d = np.random.default_rng(1), len(shape)
    one, two = (np.eye(d) + 0.1 * g.standard_normal((d, d)) for _ in range(2))
    shift_one, shift_two = g.uniform(-0.5, 0.5, (2, d))
    centre = middle(shape)
    first = linear(one - np.eye(d), shape, centre, shift_one)
    second = linear(two - np.eye(d), shape, centre, shift_two)
    expected = linear(one @ two - np.eye(d), shape, centre, one @ shift_two + shift_one)
    inner = (..., *[slice(4, -4)] * d)  # the second field stays on the grid there
    torch.testing.assert_close(compose(first, second)[inner], expected[inner])


def test_a_composed_field_warps_as_both_do():
    """Of an image linear in position interpolation is exact."""
    shape, g = (21, 17), np.random.default_rng(2)
    image = linear(g.standard_normal((2, 2)), shape, middle(shape))
    first, second = (torch.from_numpy(g.uniform(-1, 1, (1, 2, *shape))) for _ in range(2))
    inner = (..., slice(3, -3), slice(3, -3))
    twice, once = warp(warp(image, first), second), warp(image, compose(first, second))
    torch.testing.assert_close(twice[inner], once[inner])


@pytest.mark.parametrize("shape", [(21, 17), (9, 11, 10)])
def test_the_exponential_of_a_linear_velocity_is_the_matrix_exponential(shape):
    d = len(shape)
    turn = np.zeros((d, d))
    turn[0, 1], turn[1, 0] = 0.4, -0.4
    generator = turn - 0.6 * np.eye(d)  # the flow goes round and inwards: it stays on the grid
    centre = middle(shape)
    found = exponential(linear(generator, shape, centre), steps=7)
    exact = linear(np.linalg.matrix_power(np.eye(d) + generator / 2**7, 2**7) - np.eye(d), shape, centre)
    torch.testing.assert_close(found, exact)  # what scaling and squaring means
    flow = linear(linalg.expm(generator) - np.eye(d), shape, centre)
    assert (found - flow).abs().max() < 0.02 < flow.abs().max() / 100
    more = exponential(linear(generator, shape, centre), steps=12)
    assert (more - flow).abs().max() < (found - flow).abs().max() / 20


def test_the_exponential_of_minus_is_the_inverse():
    g = np.random.default_rng(3)
    velocity = torch.from_numpy(
        np.stack([ndimage.gaussian_filter(g.standard_normal((40, 44)), 6) * 40 for _ in range(2)])[None]
    )
    there, back = exponential(velocity), exponential(-velocity)
    assert there.abs().max() > 2
    inner = (..., slice(10, -10), slice(10, -10))
    assert compose(there, back)[inner].abs().max() < 0.05
    assert not folded(there)[inner].any()
    torch.testing.assert_close(exponential(velocity, steps=0), velocity)


@pytest.mark.parametrize("shape", SHAPES)
def test_determinants_of_an_affine_field(shape):
    matrix = 0.4 * np.random.default_rng(4).standard_normal((len(shape),) * 2)
    field = linear(matrix, shape, middle(shape))
    expected = torch.full((1, *shape), np.linalg.det(np.eye(len(shape)) + matrix), dtype=torch.float64)
    torch.testing.assert_close(jacobian_determinant(field), expected)
    torch.testing.assert_close(least_determinant(field), expected)


@pytest.mark.parametrize("shape", [(5, 6), (3, 4, 5)])
def test_determinants_by_definition(shape):
    _, field = random_pair(shape, reach=0.5)
    d = len(shape)
    central = np.stack([np.gradient(field.numpy(), axis=2 + k) for k in range(d)], 2)  # (B, i, k, *shape)
    expected = np.linalg.det(np.moveaxis(central, (1, 2), (-2, -1)) + np.eye(d))
    np.testing.assert_allclose(jacobian_determinant(field).numpy(), expected, atol=1e-12)

    least = np.full((2, *shape), np.inf)
    for b, place, signs in product(range(2), np.ndindex(*shape), product((1, -1), repeat=d)):
        slopes = np.empty((d, d))
        for k, sign in enumerate(signs):
            step = sign * np.eye(d, dtype=int)[k]
            if not 0 <= place[k] + step[k] < shape[k]:
                step = -step
            ahead = field[(b, slice(None), *(np.array(place) + step))].numpy()
            slopes[:, k] = (ahead - field[(b, slice(None), *place)].numpy()) * step[k]
        least[(b, *place)] = min(least[(b, *place)], np.linalg.det(np.eye(d) + slopes))
    for b, place in product(range(2), np.ndindex(*(n - 1 for n in shape))):
        for parity in (0, 1) if d == 3 else ():  # the tetrahedra between every other corner of a cell
            corners = [np.array(c) for c in product((0, 1), repeat=3) if sum(c) % 2 == parity]
            moved = [place + c + field[(b, slice(None), *(place + c))].numpy() for c in corners]
            volumes = [np.linalg.det(np.stack([c - four[0] for c in four[1:]])) for four in (corners, moved)]
            least[(b, *place)] = min(least[(b, *place)], volumes[1] / volumes[0])
    np.testing.assert_allclose(least_determinant(field).numpy(), least, atol=1e-12)
    np.testing.assert_array_equal(folded(field).numpy(), least <= 0)
    assert 0 < folded(field).double().mean() < 1


def test_a_cell_turned_inside_out_though_every_corner_keeps_its_order():
    """Among random cells are some of which no corner's edges turn over, but a tetrahedron inside does."""
    generator = torch.Generator().manual_seed(0)
    fields = 0.55 * torch.randn(4000, 3, 2, 2, 2, generator=generator, dtype=torch.float64)
    slopes = [fields.diff(dim=2 + k) for k in range(3)]
    found = []
    for place in product((0, 1), repeat=3):
        columns = []
        for k in range(3):
            at = [slice(None), slice(None), *place]
            at[2 + k] = 0
            columns.append(slopes[k][tuple(at)])
        found.append(torch.linalg.det(torch.stack(columns, 2) + torch.eye(3, dtype=torch.float64)))
    kept = torch.stack(found).amin(0) > 0
    hidden = kept & folded(fields).flatten(1).any(1)
    assert kept.any()
    assert hidden.any()


@pytest.mark.parametrize("padding", ["border", "zeros"])
def test_what_is_not_finite_stays_so(padding):
    """torch's own backward pass ends the process on a grid of NaN."""
    image = torch.rand(2, 1, 6, 7, requires_grad=True)
    field = torch.zeros(2, 2, 6, 7)
    field[0], field[1, 0, 2, 3], field[1, 1, 4, 4] = torch.nan, torch.inf, torch.nan
    field.requires_grad_()
    warped = warp(image, field, padding=padding)
    bad = torch.zeros(2, 1, 6, 7, dtype=torch.bool)
    bad[0], bad[1, 0, 2, 3], bad[1, 0, 4, 4] = True, True, True
    assert torch.equal(warped.isfinite(), ~bad)
    warped.sum().backward()


def test_a_fold_that_central_differences_do_not_see():
    """Neighbours swap places, every second voxel: p + u(p) goes 0.6, 0.4, 2.6, 2.4, ..."""
    field = torch.zeros(1, 2, 8, 8)
    field[:, 0] = 0.6 * (-1.0) ** torch.arange(8)[:, None]
    assert (jacobian_determinant(field)[:, 1:-1] == 1).all()
    assert folded(field).all()
    torch.testing.assert_close(least_determinant(field), torch.full((1, 8, 8), 1 - 1.2))
    assert not folded(field * 0.8).any()  # 0.48 each: they come close, and keep their order


def test_the_least_determinant_has_a_gradient():
    _, field = random_pair((4, 3), reach=0.5)
    assert torch.autograd.gradcheck(least_determinant, field.requires_grad_())


def test_identity_names_places():
    places = identity((3, 4), like=torch.zeros(1, dtype=torch.float64))
    assert places.shape == (1, 2, 3, 4)
    assert places.dtype is torch.float64
    assert places[0, :, 2, 1].tolist() == [2, 1]


@pytest.mark.parametrize(
    "bad", [torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 4, 4, 4), torch.zeros(2, 4, 4), torch.zeros(1, 2, 4, 4).long()]
)
def test_what_is_no_field(bad):
    with pytest.raises(ValueError, match=r"^field: wanted a floating tensor"):
        check_field(bad)


def test_bad_input_is_named():
    field, image = torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4)
    with pytest.raises(TypeError, match=r"^velocity: wanted a tensor"):
        exponential("none")
    with pytest.raises(ValueError, match=r"^image: wanted \(1, C, 4, 4\)"):
        warp(image[..., 1:], field)
    with pytest.raises(TypeError, match=r"^image: wanted a floating tensor, got torch.int64"):
        warp(image.long(), field)
    with pytest.raises(ValueError, match=r"^mode: wanted"):
        warp(image, field, mode="cubic")
    with pytest.raises(ValueError, match=r"^padding: wanted"):
        warp(image, field, padding="reflect")
    with pytest.raises(ValueError, match=r"^first: wanted"):
        compose(field[..., 1:], field)
    for steps in (-1, 1.5, True):
        with pytest.raises(ValueError, match=r"^steps: wanted a whole number"):
            exponential(field, steps=steps)
    with pytest.raises(ValueError, match=r"^field: wanted two voxels"):
        jacobian_determinant(field[:, :, :1])
