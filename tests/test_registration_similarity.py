"""Similarities across modalities: against NumPy and SciPy in float64, written from the papers, and by invariants."""

from __future__ import annotations

import pickle
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from scipy import ndimage
from scipy.interpolate import BSpline

from fastattack.registration import local_correlation, mind_ssc, nmi

SHAPES = [(2, 1, 13, 11), (2, 1, 10, 9, 11)]
ALL = [mind_ssc(), nmi(), local_correlation(window=5)]


def images(shape: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth images and others that share their structure with the contrast turned, and noise; in [0, 1]."""
    g = np.random.default_rng(seed)
    a = ndimage.gaussian_filter(g.random(shape), (0, 0, *[1.5] * (len(shape) - 2)))
    a = (a - a.min()) / (a.max() - a.min())
    b = np.clip(0.9 - 0.7 * a + 0.05 * g.standard_normal(shape), 0, 1)
    return torch.from_numpy(a), torch.from_numpy(b)


def context(image: np.ndarray, radius: int, dilation: int) -> np.ndarray:
    """(channels, *spatial), from Heinrich et al.: pairs among the 4 or 6 neighbours at a squared distance of 2."""
    d = image.ndim
    around = [v for v in product((-1, 0, 1), repeat=d) if np.abs(v).sum() == 1]
    couples = [(u, v) for u, v in product(around, around) if u > v and np.square(np.subtract(u, v)).sum() == 2]
    wide = np.pad(image, dilation, mode="edge")

    def at(offset: tuple[int, ...]) -> np.ndarray:
        cut = tuple(
            slice(dilation + dilation * o, dilation + dilation * o + n)
            for o, n in zip(offset, image.shape, strict=True)
        )
        return wide[cut]

    apart = [ndimage.uniform_filter((at(u) - at(v)) ** 2, 2 * radius + 1, mode="nearest") for u, v in couples]
    excess = np.stack(apart) - np.min(apart, 0)
    variance = excess.mean(0)
    return np.exp(-excess / np.clip(variance, 0.001 * variance.mean(), 1000 * variance.mean()))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("radius", "dilation"), [(2, 2), (1, 1), (0, 3)])
def test_mind_ssc_by_definition(shape, radius, dilation):
    a, b = images(shape)
    found = mind_ssc(radius=radius, dilation=dilation)(a, b)
    for i in range(shape[0]):
        one, two = (context(t[i, 0].numpy(), radius, dilation) for t in (a, b))
        assert len(one) == {2: 4, 3: 12}[len(shape) - 2]
        assert float(found[i]) == pytest.approx(((one - two) ** 2).mean(), rel=1e-9)
    assert (found > 1e-3).all()


def test_mind_ssc_where_its_variance_is_held():
    """A bright spot in a nearly flat image: most variances are below a thousandth of the mean."""
    a, b = images((1, 1, 24, 24))
    a, b = a * 1e-3, b * 1e-3
    a[..., 12, 12] = b[..., 5, 7] = 1
    one, two = (context(t[0, 0].numpy(), 2, 2) for t in (a, b))
    assert float(mind_ssc()(a, b)) == pytest.approx(((one - two) ** 2).mean(), rel=1e-9)


def information(a: np.ndarray, b: np.ndarray, bins: int) -> float:
    """2 - Studholme's normalised mutual information of cubic B-spline windows, bin by bin."""
    spline = BSpline.basis_element([-2, -1, 0, 1, 2], extrapolate=False)

    def windows(t: np.ndarray) -> np.ndarray:
        return np.nan_to_num(spline(1 + t.reshape(-1, 1) * (bins - 3) - np.arange(bins)))

    of_a, of_b = windows(a), windows(b)
    np.testing.assert_allclose(of_a.sum(1), 1)
    joint = np.einsum("ni,nk->ik", of_a, of_b) / a.size

    def entropy(p: np.ndarray) -> float:
        return -float(np.sum(p[p > 0] * np.log(p[p > 0])))

    return 2 - (entropy(joint.sum(0)) + entropy(joint.sum(1))) / entropy(joint)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bins", [4, 16, 32])
def test_nmi_by_definition(shape, bins):
    a, b = images(shape)
    assert float(a.min()) == 0
    assert float(a.max()) == 1  # both ends of the histogram
    found = nmi(bins=bins)(a, b)
    for i in range(shape[0]):
        assert float(found[i]) == pytest.approx(information(a[i].numpy(), b[i].numpy(), bins), rel=1e-9)


def correlation(a: np.ndarray, b: np.ndarray, window: int, epsilon: float) -> float:
    """Window by window, each about its own mean."""
    cut = (window,) * a.ndim
    one, two = (sliding_window_view(t, cut).reshape(-1, window**a.ndim) for t in (a, b))
    one, two = one - one.mean(1, keepdims=True), two - two.mean(1, keepdims=True)
    shared = (one * two).mean(1)
    return float((1 - shared**2 / ((one**2).mean(1) + epsilon) / ((two**2).mean(1) + epsilon)).mean())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("window", "epsilon"), [(9, 1e-5), (4, 1e-3)])
def test_local_correlation_by_definition(shape, window, epsilon):
    a, b = images(shape)
    found = local_correlation(window=window, epsilon=epsilon)(a, b)
    for i in range(shape[0]):
        expected = correlation(a[i, 0].numpy(), b[i, 0].numpy(), window, epsilon)
        assert float(found[i]) == pytest.approx(expected, rel=1e-9)


def test_local_correlation_of_bright_images_with_little_contrast():
    """In float32, squares of about 10^4 would leave nothing of variances of about 10^-3."""
    a, b = (0.1 * t.float() + 100 for t in images((1, 1, 40, 40)))
    a[..., :20], b[..., :20] = a[..., :20] - 50, b[..., :20] - 50  # one mean for all would not do either
    expected = correlation(a[0, 0].double().numpy(), b[0, 0].double().numpy(), 9, 1e-5)
    assert 0.05 < expected < 0.95
    assert float(local_correlation()(a, b)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("distance", ALL, ids=repr)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_all_of_them_are(distance, shape):
    """(B,), symmetric, each sample and channel for itself, the same along other axes, in float32 as in float64."""
    a, b = images(shape)
    found = distance(a, b)
    assert found.shape == (shape[0],)
    torch.testing.assert_close(distance(b, a), found)
    torch.testing.assert_close(distance(a[1:], b[1:]), found[1:])
    turned = [t.transpose(2, -1).contiguous() for t in (a, b)]
    torch.testing.assert_close(distance(*turned), found)
    torch.testing.assert_close(distance(a.float(), b.float()), found.float(), rtol=1e-4, atol=1e-6)
    channels = [t.transpose(0, 1).contiguous() for t in (a, b)]
    torch.testing.assert_close(distance(*channels), found.mean(0, keepdim=True))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(distance(a.float(), b.float()), found.float(), rtol=1e-4, atol=1e-6)
    assert pickle.loads(pickle.dumps(distance)) == distance


@pytest.mark.parametrize("distance", ALL, ids=repr)
@pytest.mark.parametrize("shape", [(2, 1, 7, 6), (1, 1, 6, 5, 6)])
def test_gradients(distance, shape):
    a, b = images(shape, seed=3)
    a, b = 0.02 + 0.96 * a, 0.02 + 0.96 * b  # inside [0, 1], at whose ends nmi has a kink
    assert torch.autograd.gradcheck(distance, (a.requires_grad_(), b.requires_grad_()), fast_mode=True)


@pytest.mark.parametrize("distance", ALL, ids=repr)
@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_a_flat_image_tells_nothing_and_has_a_finite_gradient(distance, level):
    _, b = images((1, 1, 13, 11))
    for dtype in (torch.float32, torch.float64):
        flat = torch.full((1, 1, 13, 11), level, dtype=dtype, requires_grad=True)
        for one, two in ((flat, b.to(dtype)), (flat, flat.detach())):
            loss = distance(one, two).sum()
            (grad,) = torch.autograd.grad(loss, flat)
            assert loss.isfinite()
            assert grad.isfinite().all()
        if not isinstance(distance, mind_ssc):
            assert float(distance(flat, b.to(dtype)).detach()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("distance", ALL, ids=repr)
def test_nan_stays_nan(distance):
    a, b = images((2, 1, 13, 11))
    a[0, 0, 5, 5] = torch.nan
    found = distance(a, b)
    assert found[0].isnan()
    assert found[1].isfinite()


@settings(max_examples=15, deadline=None)
@given(st.floats(0.05, 3), st.booleans(), st.floats(-2, 2), st.integers(0, 1000))
def test_mind_ssc_and_local_correlation_know_no_gain_and_offset(gain, turned, offset, seed):
    a, b = images((1, 1, 13, 11), seed)
    other = (-gain if turned else gain) * a + offset
    torch.testing.assert_close(mind_ssc()(other, b), mind_ssc()(a, b), rtol=1e-6, atol=1e-9)
    assert float(mind_ssc()(other, a)) == pytest.approx(0, abs=1e-12)
    blind = local_correlation(window=5, epsilon=1e-12)
    torch.testing.assert_close(blind(other, b), blind(a, b), rtol=1e-5, atol=1e-7)
    assert float(blind(other, a)) == pytest.approx(0, abs=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(7)), st.integers(0, 1000))
def test_nmi_knows_no_grey_values(order, seed):
    """Seven values, four bins of 32 apart, so that no two share a bin: only which voxels are alike counts."""
    g = torch.Generator().manual_seed(seed)
    place = torch.randint(0, 7, (1, 1, 12, 12), generator=g)
    values = 4 * torch.arange(7, dtype=torch.float64) / 29
    other = torch.rand(1, 1, 12, 12, generator=g, dtype=torch.float64)
    torch.testing.assert_close(nmi()(values[list(order)][place], other), nmi()(values[place], other))
    torch.testing.assert_close(nmi()(values[place], 1 - other), nmi()(values[place], other))


def test_each_is_least_where_images_lie_on_each_other():
    a, b = images((1, 1, 40, 40), seed=5)
    for distance in (mind_ssc(), nmi(bins=16), local_correlation()):
        there = float(distance(a, b))
        for axis, shift in product((2, 3), (-3, -2, 2, 3)):
            assert float(distance(a.roll(shift, axis), b)) > 1.05 * there


def test_nmi_counts_values_outside_as_the_ends():
    a, b = images((1, 1, 13, 11))
    wide = 1.5 * a - 0.25
    torch.testing.assert_close(nmi()(wide, b), nmi()(wide.clamp(0, 1), b))


@pytest.mark.parametrize("distance", ALL, ids=repr)
def test_bad_images_are_named(distance):
    a = torch.rand(2, 1, 13, 11)
    with pytest.raises(TypeError, match=r"^moving: wanted a floating tensor, got torch.int64"):
        distance(a.long(), a)
    with pytest.raises(TypeError, match=r"^fixed: wanted a floating tensor, got NoneType"):
        distance(a, None)
    with pytest.raises(ValueError, match=r"^moving: wanted the shape \(2, 1, 13, 11\)"):
        distance(a[..., 1:], a)
    with pytest.raises(ValueError, match=r"^fixed: wanted images"):
        distance(a[:, 0], a[:, 0])


def test_bad_options_are_named():
    for make, name, value in (
        (mind_ssc, "radius", -1), (mind_ssc, "radius", 1.5), (mind_ssc, "dilation", 0), (nmi, "bins", 3),
        (nmi, "bins", True), (local_correlation, "window", 1), (local_correlation, "epsilon", 0.0),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"^{name}: wanted"):
            make(**{name: value})
    with pytest.raises(ValueError, match=r"^fixed: wanted 9 voxels at least"):
        local_correlation()(torch.rand(1, 1, 8, 20), torch.rand(1, 1, 8, 20))
