"""zero_mean_step_ and project_zero_mean_: against float64 NumPy, inside the ball, and with a mean that is 0."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastattack import ops
from fastattack.ops import dispatch
from tests.cases import DTYPES, LAYOUTS, all_images, images, ulp_distance
from tests.subjects import Subject

EPS, STEP = 0.1, 0.02


def exact(x):
    return x.double().cpu().numpy().reshape(x.shape[0], -1).astype(np.longdouble)


def numpy_step(adv, grad, origin, eps, step):
    """From the definition, in long double."""
    o, d = exact(origin), exact(adv) - exact(origin)
    d = d - d.mean(1, keepdims=True)
    if grad is not None:
        g = exact(grad)
        g = g - g.mean(1, keepdims=True)
        length = np.sqrt((g * g).sum(1, keepdims=True))
        d = d + step * np.divide(g, length, out=np.zeros_like(g), where=length > 0)
    size = np.sqrt((d * d).sum(1, keepdims=True))
    d = d * np.minimum(1, np.divide(eps, size, out=np.ones_like(size), where=size > 0))
    return torch.from_numpy((o + d).astype(np.float64)).reshape(adv.shape)


def deltas(adv, origin):
    """(B, d) in float64, as the arithmetic type sees them."""
    real = torch.float64 if adv.dtype is torch.float64 else torch.float32
    return (adv.to(real) - origin.to(real)).double().flatten(1).cpu()


def assert_mean_is_zero(adv, origin):
    """The exact mean, to what rounding the pixels and, in float64, the sums in double leave: one part each."""
    size = (adv.double().abs() + origin.double().abs()).flatten(1).mean(1).tolist()
    for row, mean in zip(deltas(adv, origin).tolist(), size, strict=True):
        assert abs(math.fsum(row)) <= len(row) * (2 * torch.finfo(adv.dtype).eps * mean + 1e-300)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alone", [True, False])
def test_the_reference_is_the_definition(alone, dtype):
    for _, case in all_images(dtype, "cpu"):
        grad = None if alone else case.grad + 3e-4  # a mean beside the spread
        got = case.adv.clone()
        if alone:
            ops.project_zero_mean_(got, case.origin, eps=EPS, backend="reference")
        else:
            ops.zero_mean_step_(got, grad, case.origin, eps=EPS, step=STEP, backend="reference")
        want = numpy_step(case.adv, grad, case.origin, EPS, STEP)
        tolerance = 3e-7 if dtype is torch.float32 else 3e-7 * EPS  # the radius is kept 2^-22 inside
        assert (got.double() - want).abs().max() <= tolerance, case.label


@pytest.mark.parametrize("dtype", DTYPES)
def test_backends_agree_with_the_reference(subject: Subject, dtype):
    g = torch.Generator().manual_seed(1)
    for number, (kind, case) in enumerate(all_images(dtype, subject.device)):
        batch = case.adv.shape[0]
        many = (0.2 * torch.rand(batch, generator=g)).to(subject.device)
        steps = (0.05 * torch.randn(batch, generator=g)).to(subject.device)
        grad = case.grad + 2e-4 * torch.randn(1, generator=g).to(subject.device, dtype)
        every = (
            {"eps": 0.1, "step": STEP}, {"eps": many, "step": steps}, {"eps": many}, {"eps": 5.0, "step": -STEP},
            {"eps": 5.0}, {"eps": 0.05},
        )  # fmt: skip
        for options in subject.turns(every[:3] if subject.slow else every, number + DTYPES.index(dtype)):
            want, got = case.fresh(kind), case.fresh(kind)
            call = (grad, case.origin) if "step" in options else (case.origin,)
            op = ops.zero_mean_step_ if "step" in options else ops.project_zero_mean_
            op(want, *call, backend="reference", **options)
            assert op(got, *call, backend=subject.backend, **options) is got
            # float64 sums have no digits to spare
            assert ulp_distance(got, want) <= (16 if dtype is torch.float64 else 2), f"{case.label} {options}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eps", [0.05, 0.3, 100.0])
def test_inside_the_ball_with_a_mean_of_zero(subject: Subject, dtype, eps):
    for number, (shape, kind) in enumerate(LAYOUTS[3:8]):
        case = images(shape, kind, dtype, subject.device)
        for step in subject.turns((0.5, -0.01, 0.0), number + DTYPES.index(dtype)):
            adv = case.fresh(kind)
            ops.zero_mean_step_(adv, case.grad + 1e-3, case.origin, eps=eps, step=step, backend=subject.backend)
            assert (deltas(adv, case.origin).norm(dim=1) <= eps).all()
            assert_mean_is_zero(adv, case.origin)


def test_how_near_to_zero_the_mean_of_an_attack_is(subject: Subject):
    """1e-6 of the rms of the perturbation in float32, after as many steps as ObsAtk takes."""
    case = images((2, 1, 40, 41) if subject.slow else (2, 3, 64, 65), "contiguous", torch.float32, subject.device)
    adv, eps = case.origin.clone(), 0.05 * math.sqrt(case.origin[0].numel())
    for k in range(5):
        grad = (case.grad.roll(k, -1) + 2e-5).contiguous()
        ops.zero_mean_step_(adv, grad, case.origin, eps=eps, step=0.4 * eps, backend=subject.backend)
    delta = deltas(adv, case.origin)
    assert (delta.mean(1).abs() <= 1e-6 * delta.square().mean(1).sqrt()).all()
    assert (delta.norm(dim=1) >= 0.5 * eps).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_point_of_the_set_stays_to_the_bit(subject: Subject, dtype):
    for number, (shape, kind) in enumerate(LAYOUTS[:8]):
        case = images(shape, kind, dtype, subject.device)
        for eps in subject.turns((0.05, 10.0), number + DTYPES.index(dtype)):
            once = ops.project_zero_mean_(case.fresh(kind), case.origin, eps=eps, backend=subject.backend)
            twice = ops.project_zero_mean_(once.clone(), case.origin, eps=eps, backend=subject.backend)
            assert torch.equal(once, twice), f"{case.label} {eps}"


def test_a_constant_gradient_is_no_step(subject: Subject):
    """The sums of 0.1, 0.1, ... are no multiples of it: only what is exact says that nothing is left."""
    for dtype in (torch.float32, torch.float64, torch.float16):
        case = images((2, 3, 9, 11), "contiguous", dtype, subject.device)
        start = ops.project_zero_mean_(case.adv.clone(), case.origin, eps=1.0, backend=subject.backend)
        for value in (0.0, 0.1, -3e-3, 700.0):
            adv, grad = start.clone(), torch.full_like(case.grad, value)
            ops.zero_mean_step_(adv, grad, case.origin, eps=1.0, step=5.0, backend=subject.backend)
            assert torch.equal(adv, start), value


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [0.0, 1.0, 1e3, -1e5])
def test_the_mean_of_the_gradient_does_not_matter(subject: Subject, dtype, offset):
    """g + m with a mean far beyond the spread: what float32 kept of g is the direction, to its last digits."""
    g = torch.Generator().manual_seed(3)
    grad = (torch.randn(2, 1, 31, 37, generator=g, dtype=torch.float64) + offset).to(dtype).to(subject.device)
    grad[1, 0, 0, 0] = 50.0 + offset  # an outlier where the pivot is taken
    origin = torch.rand(2, 1, 31, 37, generator=g, dtype=torch.float64).to(dtype).to(subject.device)
    adv = ops.zero_mean_step_(origin.clone(), grad, origin, eps=10.0, step=2.0, backend=subject.backend)
    want = numpy_step(origin, grad, origin, 10.0, 2.0)
    tolerance = 5e-7 if dtype is torch.float32 else 1e-12  # the outlier costs float64 a factor of the sample's size
    assert (adv.double().cpu() - want).abs().max() <= tolerance
    if dtype is torch.float32:
        assert_mean_is_zero(adv, origin)
    else:
        assert deltas(adv, origin).mean(1).abs().max() <= 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_mean_of_the_perturbation_does_not_matter(subject: Subject, dtype):
    g = torch.Generator().manual_seed(4)
    origin = torch.rand(2, 500, generator=g, dtype=torch.float64).to(dtype).to(subject.device)
    adv = (origin + 0.01 * torch.randn(2, 500, generator=g, dtype=dtype).to(subject.device) + 300.0).to(dtype)
    want = numpy_step(adv, None, origin, 0.1, 0.0)
    got = ops.project_zero_mean_(adv.clone(), origin, eps=0.1, backend=subject.backend)
    assert (got.double().cpu() - want).abs().max() <= (1e-4 if dtype is torch.float32 else 1e-7)
    assert deltas(got, origin).norm(dim=1).max() <= 0.1
    if dtype is torch.float64:
        assert_mean_is_zero(got, origin)


@pytest.mark.parametrize("exponent", [-300, -170, 170, 300])
def test_float64_squares_do_not_overflow(subject: Subject, exponent):
    scale = 10.0**exponent
    shape = torch.tensor([[3.0, -4.0, 7.0, 2.0]], dtype=torch.float64)
    grad, origin = (scale * shape).to(subject.device), torch.zeros(1, 4, dtype=torch.float64, device=subject.device)
    adv = ops.zero_mean_step_(origin.clone(), grad, origin, eps=10.0, step=2.0, backend=subject.backend)
    want = 2 * (shape - 2) / (shape - 2).norm()
    assert torch.allclose(adv.cpu(), want, rtol=1e-12)
    back = ops.project_zero_mean_((scale * shape).to(subject.device), origin, eps=scale, backend=subject.backend)
    assert torch.allclose(back.cpu() / scale, want / 2, rtol=1e-6)


@pytest.mark.parametrize("exponent", [-40, -30, 30, 37])
def test_gradients_at_the_ends_of_float32(subject: Subject, exponent):
    shape = torch.tensor([[3.0, -4.0, 7.0, 2.0], [1.0, 1.0, 1.0, -1.0]], dtype=torch.float64)
    grad, origin = (shape * 10.0**exponent).float().to(subject.device), torch.zeros(2, 4, device=subject.device)
    adv = ops.zero_mean_step_(origin.clone(), grad, origin, eps=10.0, step=2.0, backend=subject.backend)
    want = numpy_step(origin, shape, origin, 10.0, 2.0)
    assert torch.allclose(adv.double().cpu(), want, atol=1e-4 if exponent == -40 else 1e-6)


def test_one_element_has_no_perturbation(subject: Subject):
    origin = torch.tensor([[0.3], [-7.0]], device=subject.device)
    adv = ops.zero_mean_step_(origin + 1, origin.clone(), origin, eps=5.0, step=1.0, backend=subject.backend)
    assert torch.equal(adv, origin)


def test_eps_zero_is_the_origin_and_nan_is_not_hidden(subject: Subject):
    case = images((3, 1, 5, 7), "contiguous", torch.float32, subject.device)
    grad, adv = case.grad.clone(), case.adv.clone()
    grad[1, 0, 2, 2] = float("nan")
    adv[2, 0, 1, 1] = float("nan")
    ops.zero_mean_step_(adv, grad, case.origin, eps=0.0, step=1.0, backend=subject.backend)
    assert torch.equal(adv[0], case.origin[0])
    assert adv[1].isnan().all()
    assert adv[2].isnan().all()


def test_the_table_takes_no_gradient(subject: Subject):
    case = images((2, 1, 6, 7), "contiguous", torch.float32, subject.device)
    table = dispatch.resolve(case.adv.device, subject.backend)
    got, want = case.adv.clone(), case.adv.clone()
    table.zero_mean_step(got, None, case.origin, EPS, 123.0)
    ops.project_zero_mean_(want, case.origin, eps=EPS, backend=subject.backend)
    assert torch.equal(got, want)


def test_results_do_not_depend_on_threads_or_batch():
    case = images((3, 3, 130, 131), "contiguous", torch.float32, "cpu")
    threads, grad = torch.get_num_threads(), case.grad + 1e-5
    try:
        results = []
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(ops.zero_mean_step_(case.adv.clone(), grad, case.origin, eps=1.0, step=0.1))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    alone = ops.zero_mean_step_(case.adv[1:2].clone(), grad[1:2], case.origin[1:2], eps=1.0, step=0.1)
    assert torch.equal(alone[0], results[0][1])


def test_a_large_sample_is_shared_by_the_team():
    """Beyond SPLIT_FROM elements, both ways of summing."""
    case = images((1, 1, 400, 401), "contiguous", torch.float32, "cpu")
    for grad in (case.grad, case.grad + 1.0):
        got = ops.zero_mean_step_(case.adv.clone(), grad, case.origin, eps=4.0, step=1.0)
        assert (got.double() - numpy_step(case.adv, grad, case.origin, 4.0, 1.0)).abs().max() <= 3e-7


def test_bad_input_is_named():
    x, y = torch.rand(2, 3), torch.rand(2, 3)
    with pytest.raises(ValueError, match="eps: wanted a number >= 0, got -1"):
        ops.zero_mean_step_(x, y, y.clone(), eps=-1.0, step=0.1)
    with pytest.raises(ValueError, match="step"):
        ops.zero_mean_step_(x, y, y.clone(), eps=1.0, step=float("nan"))
    with pytest.raises(ValueError, match="grad: wanted"):
        ops.zero_mean_step_(x, y[:1], y.clone(), eps=1.0, step=0.1)
    with pytest.raises(TypeError, match="grad: wanted a tensor"):
        ops.zero_mean_step_(x, None, y, eps=1.0, step=0.1)
    with pytest.raises(ValueError, match="origin: shares its memory with adv"):
        ops.project_zero_mean_(x, x, eps=1.0)
    with pytest.raises(TypeError, match="adv: wanted float32"):
        ops.project_zero_mean_(x.int(), y, eps=1.0)
    empty = torch.zeros(0, 3)
    assert ops.zero_mean_step_(empty, empty.clone(), empty.clone(), eps=1.0, step=1.0) is empty
    assert ops.project_zero_mean_(empty, empty.clone(), eps=1.0) is empty


@settings(max_examples=80, deadline=None)
@given(
    eps=st.floats(0, 3), step=st.floats(-3, 3), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 999),
    mean=st.sampled_from([0.0, 1e-4, 1.0]), scale=st.sampled_from([1e-2, 1.0, 200.0]),
)  # fmt: skip
def test_always_in_the_set(eps, step, dtype, seed, mean, scale):
    case = images((2, 1, 5, 7), "contiguous", dtype, "cpu", seed)
    origin = case.origin * scale
    adv = ops.zero_mean_step_(case.adv * scale, case.grad + mean, origin, eps=eps, step=step)
    assert deltas(adv, origin).norm(dim=1).max().item() <= eps * (1 + 1e-9)
    assert_mean_is_zero(adv, origin)
    again = ops.project_zero_mean_(adv.clone(), origin, eps=eps)
    # Known: in float64, where sums round as much as pixels do, a second projection may move the last bit (seed 31).
    allowed = 2 * torch.finfo(dtype).eps * adv.abs().max().item() if dtype is torch.float64 else 0.0
    assert (again - adv).abs().max().item() <= allowed
