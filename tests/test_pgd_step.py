"""pgd_step_: every backend against the reference, the reference against NumPy in float64, and the guarantees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastattack import ops
from tests.cases import DTYPES, all_images, as_format, images, ulp_distance
from tests.subjects import Subject

EPS, STEP = 5 / 255, 1 / 255


def numpy_step(adv, grad, origin, norm, eps, step, bounds):
    """Float64, written from the definition."""
    a, g, o = (t.double().cpu().numpy().reshape(t.shape[0], -1) for t in (adv, grad, origin))
    if norm == "linf":
        x = np.clip(a + step * np.sign(g), o - eps, o + eps)
    else:
        length = np.linalg.norm(g, axis=1, keepdims=True)
        d = a + step * np.divide(g, length, out=np.zeros_like(g), where=length > 0) - o
        size = np.linalg.norm(d, axis=1, keepdims=True)
        x = o + d * np.minimum(1, np.divide(eps, size, out=np.ones_like(size), where=size > 0))
    if bounds is not None:
        x = np.clip(x, *bounds)
    return torch.from_numpy(x.reshape(adv.shape))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("bounds", [None, (0.1, 0.8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_reference_is_the_definition(norm, bounds, dtype):
    for _, case in all_images(dtype, "cpu"):
        eps = EPS if norm == "linf" else 0.1
        got = ops.pgd_step_(
            case.adv.clone(), case.grad, case.origin, norm=norm, eps=eps, step=STEP, bounds=bounds, backend="reference"
        )
        want = numpy_step(case.adv, case.grad, case.origin, norm, eps, STEP, bounds)
        tolerance = 3e-7 if dtype is torch.float32 else 3e-7 * eps  # the l2 radius is kept 2^-22 inside
        assert (got.double() - want).abs().max() <= tolerance, case.label


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_backends_agree_with_the_reference(subject: Subject, norm, dtype):
    g = torch.Generator().manual_seed(1)
    for number, (kind, case) in enumerate(all_images(dtype, subject.device)):
        batch = case.adv.shape[0]
        scale = 1.0 if norm == "linf" else 5.0
        many = (scale * 0.05 * torch.rand(batch, generator=g)).to(subject.device)
        steps = 0.01 * torch.randn(batch, generator=g).to(subject.device)
        mask = (torch.rand(case.adv.shape[-1:], generator=g) < 0.7).to(subject.device)
        every = (
            {"eps": scale * EPS, "step": STEP},
            {"eps": scale * EPS, "step": -STEP, "bounds": (0.0, 1.0)},
            {"eps": many, "step": steps},
            {"eps": scale * EPS, "step": STEP, "mask": mask},
        )
        for options in subject.turns(every, number + DTYPES.index(dtype)):
            want = case.fresh(kind)
            ops.pgd_step_(want, case.grad, case.origin, norm=norm, backend="reference", **options)
            got = case.fresh(kind)
            back = ops.pgd_step_(got, case.grad, case.origin, norm=norm, backend=subject.backend, **options)
            assert back is got
            if norm == "linf":
                assert torch.equal(got, want), f"{case.label} {options}"
            else:
                assert ulp_distance(got, want) <= 2, f"{case.label} {options}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_result_is_inside_the_ball(subject: Subject, norm, dtype):
    eps = 3 / 255 if norm == "linf" else 0.05
    case = images((2, 3, 17, 19), "contiguous", dtype, subject.device)
    adv = ops.pgd_step_(case.adv.clone(), case.grad, case.origin, norm=norm, eps=eps, step=1.0, backend=subject.backend)
    real = torch.float64 if dtype is torch.float64 else torch.float32
    delta = adv.to(real) - case.origin.to(real)
    if norm == "linf":
        assert delta.abs().max().item() <= eps
        if dtype in (torch.float32, torch.float64):
            assert delta[case.grad != 0].abs().min().item() >= eps * (1 - 1e-4)
    else:
        length = delta.double().flatten(1).norm(dim=1)
        assert (length <= eps).all()
        if dtype in (torch.float32, torch.float64):
            assert (length >= eps * (1 - 1e-4)).all()  # rounding inwards costs up to an ulp of the image


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_zero_gradient_moves_nothing(subject: Subject, norm):
    case = images((2, 1, 9, 9), "contiguous", torch.float32, subject.device)
    adv = case.origin + 1e-4
    kept = adv.clone()
    ops.pgd_step_(adv, torch.zeros_like(adv), case.origin, norm=norm, eps=1.0, step=STEP, backend=subject.backend)
    assert torch.equal(adv, kept)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_nan_in_the_gradient_is_not_hidden(subject: Subject, norm):
    case = images((2, 1, 9, 9), "contiguous", torch.float32, subject.device)
    grad = case.grad.clone()
    grad[1, 0, 3, 4] = float("nan")
    adv = ops.pgd_step_(case.adv.clone(), grad, case.origin, norm=norm, eps=EPS, step=STEP, backend=subject.backend)
    assert not adv[0].isnan().any()
    assert adv[1, 0, 3, 4].isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("exponent", [-40, -30, 0, 30, 37, -200, 200])
def test_gradients_of_any_size_give_the_same_l2_direction(subject: Subject, dtype, exponent):
    if dtype is torch.float32 and abs(exponent) > 40:
        pytest.skip("beyond float32")
    direction = torch.tensor([[3.0, -4.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    grad = (direction * 10.0**exponent).to(dtype).to(subject.device)
    origin = torch.zeros(2, 4, dtype=dtype, device=subject.device)
    adv = ops.pgd_step_(origin.clone(), grad, origin, norm="l2", eps=10.0, step=2.0, backend=subject.backend)
    want = torch.tensor([[1.2, -1.6, 0, 0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    tolerance = 1e-4 if exponent == -40 and dtype is torch.float32 else 1e-6  # 1e-40 has 16 bits left in float32
    assert torch.allclose(adv.double().cpu(), want, atol=tolerance)


def test_a_linear_model_is_attacked_in_closed_form(subject: Subject):
    """For loss <w, x> the optimum of the linf ball is eps sign(w), of the l2 ball eps w / |w|."""
    w = torch.randn(2, 50, generator=torch.Generator().manual_seed(0)).to(subject.device)
    x = torch.rand(2, 50, generator=torch.Generator().manual_seed(1)).to(subject.device)
    for norm, best in (("linf", 0.1 * w.sign()), ("l2", 0.1 * w / w.norm(dim=1, keepdim=True))):
        adv = x.clone()
        for _ in range(12):
            ops.pgd_step_(adv, w, x, norm=norm, eps=0.1, step=0.02, backend=subject.backend)
        assert torch.allclose(adv - x, best, atol=1e-6)


def test_masked_pixels_keep_the_origin(subject: Subject):
    case = images((2, 3, 8, 8), "contiguous", torch.float32, subject.device)
    mask = torch.zeros(8, 8, device=subject.device)
    mask[2:5, 1:7] = 1.0
    for norm in ("linf", "l2"):
        adv = ops.pgd_step_(
            case.adv.clone(), case.grad, case.origin, norm=norm, eps=EPS, step=STEP, mask=mask, backend=subject.backend
        )
        still = (mask == 0).expand_as(adv)
        assert torch.equal(adv[still], case.origin[still])
        assert not torch.equal(adv[~still], case.origin[~still])


def test_only_adv_is_written(subject: Subject):
    """Also what lies between the elements of a strided view: NaN before, NaN after."""
    case = images((2, 3, 8, 9), "strided", torch.float32, subject.device)
    adv = case.fresh("strided")
    room = adv._base
    kept = room.clone()
    copies = case.grad.clone(), case.origin.clone()
    ops.pgd_step_(adv, case.grad, case.origin, norm="linf", eps=EPS, step=STEP, backend=subject.backend)
    written = torch.zeros_like(room, dtype=torch.bool)
    written[tuple(slice(None, None, 2) for _ in adv.shape)] = True
    assert torch.equal(room[~written].isnan(), kept[~written].isnan())
    assert torch.equal(copies[0], case.grad)
    assert torch.equal(copies[1], case.origin)


def test_results_do_not_depend_on_threads_or_batch():
    case = images((3, 3, 130, 131), "contiguous", torch.float32, "cpu")
    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(ops.pgd_step_(case.adv.clone(), case.grad, case.origin, norm="l2", eps=1.0, step=0.1))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    alone = case.adv[1:2].clone()
    ops.pgd_step_(alone, case.grad[1:2], case.origin[1:2], norm="l2", eps=1.0, step=0.1)
    assert torch.equal(alone[0], results[0][1])


@settings(max_examples=60, deadline=None)
@given(
    eps=st.floats(0, 2, width=32), step=st.floats(-1, 1, width=32), scale=st.sampled_from([1e-3, 1.0, 300.0]),
    dtype=st.sampled_from(DTYPES), seed=st.integers(0, 999),
)  # fmt: skip
def test_linf_never_leaves_ball_or_bounds(eps, step, scale, dtype, seed):
    case = images((1, 1, 7, 9), "contiguous", dtype, "cpu", seed)
    origin = (case.origin * scale).clamp(-0.3 * scale, 0.9 * scale)
    low, high = (float(torch.tensor(v * scale).to(dtype)) for v in (-0.3, 0.9))
    origin = origin.clamp(low, high)
    adv = ops.pgd_step_(case.adv * scale, case.grad, origin, norm="linf", eps=eps, step=step, bounds=(low, high))
    real = torch.float64 if dtype is torch.float64 else torch.float32
    assert (adv.to(real) - origin.to(real)).abs().max().item() <= eps
    assert low <= adv.min().item()
    assert adv.max().item() <= high


def test_expanded_views_and_foreign_arrays():
    x = torch.rand(1, 1, 4, 4)
    adv = x.clone()
    grad = torch.ones(1).expand(1, 1, 4, 4)
    ops.pgd_step_(adv, grad, x, norm="linf", eps=1.0, step=0.25)
    assert torch.allclose(adv, x + 0.25)
    array = np.zeros((2, 3), dtype=np.float32)
    back = ops.pgd_step_(array, np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32), norm="linf", eps=1, step=0.5)
    assert back is array
    assert (array == 0.5).all()
    assert as_format(x, "transposed").shape == x.shape
