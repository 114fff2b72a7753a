"""distances: against NumPy in float64, at the ends of the range, in every layout."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fastattack import metrics, ops
from tests.cases import DTYPES, LAYOUTS, as_format
from tests.subjects import Subject

PRECISION = 1e-13  # relative, of sums of non-negative terms in double


def numpy_distances(a, b):
    d = (a.double().cpu().numpy() - b.double().cpu().numpy()).reshape(a.shape[0], -1).astype(np.longdouble)
    return [(d**2).mean(1), np.abs(d).sum(1), np.sqrt((d**2).sum(1)), np.abs(d).max(1)]


def assert_near(got, want, label=""):
    for name, x, y in zip(got._fields, got, want, strict=True):
        assert x.dtype is torch.float64
        assert (np.abs(x.cpu().numpy() - y) <= PRECISION * np.abs(y)).all(), f"{name} {label}"


@pytest.mark.parametrize("dtype", DTYPES)
def test_against_numpy(subject: Subject, dtype):
    g = torch.Generator().manual_seed(0)
    for shape, kind in [*LAYOUTS, ((2, 1, 200, 211), "contiguous")]:
        if subject.slow and shape[-1] > 100:
            continue
        a, b = (torch.rand(shape, generator=g).to(subject.device, dtype) for _ in range(2))
        for other in {kind, "contiguous"}:
            left, right = as_format(a, kind), as_format(b, other)
            assert_near(
                ops.distances(left, right, backend=subject.backend), numpy_distances(a, b), f"{shape} {kind} {other}"
            )


def test_layouts_that_share_no_walk(subject: Subject):
    a = torch.rand(2, 3, 8, 9, generator=torch.Generator().manual_seed(0)).to(subject.device)
    channels_last = as_format(a.flip(0), "channels_last")
    assert_near(ops.distances(a, channels_last, backend=subject.backend), numpy_distances(a, channels_last))
    expanded = a[:1, :, :, :1].expand(a.shape)
    assert_near(ops.distances(a, expanded, backend=subject.backend), numpy_distances(a, expanded))
    offset = torch.rand(2 * 3 * 8 * 9 + 1, device=subject.device)[1:].reshape(a.shape)  # off the 16-byte lines
    assert_near(ops.distances(offset, a, backend=subject.backend), numpy_distances(offset, a))


def test_a_small_difference_of_large_images(subject: Subject):
    """Squares of float32 would have six digits of the images, and none of the difference."""
    shape = (1, 1, 40, 41) if subject.slow else (1, 3, 600, 601)
    g = torch.Generator().manual_seed(1)
    b = 1000.0 + torch.rand(shape, generator=g, dtype=torch.float64)
    a = b + 1e-6 * torch.randn(shape, generator=g, dtype=torch.float64)
    a, b = a.to(subject.device), b.to(subject.device)
    assert_near(ops.distances(a, b, backend=subject.backend), numpy_distances(a, b))


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_samples_are_at_distance_zero(subject: Subject, dtype):
    a = torch.rand(2, 3, 9, 11, generator=torch.Generator().manual_seed(0)).to(subject.device, dtype)
    b = a.clone()
    b[1, 0, 0, 0] += 0.25
    got = ops.distances(a, b, backend=subject.backend)
    assert all(column[0] == 0 and column[1] > 0 for column in got)
    assert got.psnr()[0] == math.inf
    assert all((column == 0).all() for column in ops.distances(a, a, backend=subject.backend))


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e30, 3e37])
def test_magnitudes_at_the_ends_of_float32(subject: Subject, scale):
    a = (torch.tensor([[3.0, -4.0, 0.0, 1.0]], dtype=torch.float64) * scale).float().to(subject.device)
    assert_near(ops.distances(a, -a, backend=subject.backend), numpy_distances(a, -a))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy of what is infinite in float64
@pytest.mark.parametrize("scale", [5e-324, 1e-200, 1e-154, 1e-101, 1e-99, 1e144, 1e154, 1e200, 4e307])
def test_norms_of_float64_reach_the_ends_of_its_range(subject: Subject, scale):
    a = (torch.tensor([[3.0, 0.0, 0.0, 0.0], [1e3, 1.0, 0.0, 0.0]], dtype=torch.float64) * scale).to(subject.device)
    got = ops.distances(a.clamp(max=1.7e308), torch.zeros_like(a), backend=subject.backend)
    want = numpy_distances(a.clamp(max=1.7e308), torch.zeros_like(a))
    want[0] = want[0].astype(np.float64)  # squares may vanish or overflow where float64 has no number for them
    gap = np.abs(got.mse.cpu().numpy() - want[0])
    assert ((gap <= PRECISION * want[0] + 1e-323) | (got.mse.cpu().numpy() == want[0])).all()
    for x, y in zip(got[1:], want[1:], strict=True):
        x = x.cpu().numpy()
        assert (np.abs(x - y) <= PRECISION * y).all() or (x == y.astype(np.float64)).all()


def test_a_large_pair_that_cancels_hides_no_small_difference(subject: Subject):
    a = torch.tensor([[1e200, 1e-20]], dtype=torch.float64, device=subject.device)
    b = torch.tensor([[1e200, 3e-20]], dtype=torch.float64, device=subject.device)
    assert_near(ops.distances(a, b, backend=subject.backend), numpy_distances(a, b))


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_show(subject: Subject, dtype):
    nan, inf = math.nan, math.inf
    a = torch.tensor([[1.0, nan, 2.0], [1.0, inf, 2.0], [nan, inf, 2.0], [1.0, inf, 2.0], [1.0, 2.0, 3.0]], dtype=dtype)
    b = torch.tensor(
        [[1.0, 2.0, 9.0], [1.0, 2.0, -inf], [1.0, 2.0, 9.0], [0.0, inf, 2.0], [1.0, 2.0, 5.0]], dtype=dtype
    )
    got = ops.distances(a.to(subject.device), b.to(subject.device), backend=subject.backend)
    for column in got:
        assert column.isnan().tolist() == [True, False, True, True, False]
        assert column[1] == inf
    assert got.linf[4] == 2


def test_psnr_by_hand():
    got = ops.distances(torch.zeros(2, 1, 4, 4), torch.tensor([0.5, -2.0]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4))
    assert got.mse.tolist() == [0.25, 4.0]
    assert got.psnr().tolist() == pytest.approx([10 * math.log10(4), -10 * math.log10(4)], abs=1e-12)
    assert got.psnr(255).tolist() == pytest.approx((got.psnr() + 20 * math.log10(255)).tolist(), abs=1e-12)
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="data_range must be positive"):
            got.psnr(bad)


def test_the_threads_change_no_bit():
    a, b = torch.rand(2, 3, 1, 701, 703, generator=torch.Generator().manual_seed(0))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(torch.stack(ops.distances(a, b, backend="cpu")))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_what_it_refuses_and_what_is_empty():
    a = torch.zeros(2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"b: wanted \(2, 1, 4, 4\) float32 on cpu as a has, got \(1, 1, 4, 4\)"):
        ops.distances(a, a[:1])
    with pytest.raises(ValueError, match=r"b: wanted .* got .* float64"):
        ops.distances(a, a.double())
    with pytest.raises(TypeError, match=r"a: wanted float32, .* got uint8"):
        ops.distances(a.byte(), a.byte())
    with pytest.raises(ValueError, match="at least one element"):
        ops.distances(torch.zeros(2, 0), torch.zeros(2, 0))
    assert all(column.shape == (0,) and column.dtype is torch.float64 for column in ops.distances(a[:0], a[:0]))


def test_a_compiled_function_goes_through_it_without_a_break():
    a, b = torch.rand(2, 2, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    function = torch.compile(lambda x, y: ops.distances(2 * x, y).psnr(), fullgraph=True, backend="eager")
    assert torch.equal(function(a, b), ops.distances(2 * a, b).psnr())


def test_metrics_take_the_op_where_it_serves():
    a, b = torch.rand(2, 2, 3, 33, 17, generator=torch.Generator().manual_seed(0))
    want = (a.double() - b.double()).square().flatten(1).mean(1)
    for x, y in ((a, b), (a.double(), b), (a, b.double()), (as_format(a, "channels_last"), b)):
        assert metrics.mse(x, y).tolist() == pytest.approx(want.tolist(), rel=1e-14)
    ints = (255 * a).byte()
    assert metrics.mse(ints, ints // 2).tolist() == [
        pytest.approx(((x.double() - y) ** 2).mean().item()) for x, y in zip(ints, (ints // 2).double(), strict=True)
    ]
    x = a.clone().requires_grad_()
    metrics.psnr(x, b).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0
    with ops.use_backend("triton" if "triton" in usable() else "reference"):
        assert metrics.mse(a, b).tolist() == pytest.approx(want.tolist(), rel=1e-14)


def usable():
    return [name for name, reason in ops.available().items() if reason is None]
