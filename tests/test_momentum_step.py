"""momentum_step_: every backend against the reference, the reference against NumPy in float64, and the guarantees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastattack import ops
from tests.cases import DTYPES, Images, all_images, as_format, images, ulp_distance
from tests.subjects import Subject

EPS, STEP = 5 / 255, 1 / 255
NORMS = ["linf", "l2"]


def old_momentum(case: Images, kind: str = "contiguous") -> Tensor:
    """Numbers of the size that a few steps leave."""
    g = torch.Generator().manual_seed(5)
    return as_format((2 * torch.randn(case.adv.shape, generator=g)).to(case.adv), kind)


def numpy_momentum(momentum: Tensor, grad: Tensor, decay, mask=None) -> np.ndarray:
    """Float64, from the definition: |grad|_1 / d in place of |grad|_1. (B, d)"""
    m, g = (t.double().cpu().numpy().reshape(t.shape[0], -1) for t in (momentum, grad))
    if mask is not None:
        g = np.where(mask.cpu().expand(grad.shape).numpy().reshape(g.shape) != 0, g, 0)
    mean = np.abs(g).sum(1, keepdims=True) / g.shape[1]
    decay = np.asarray(decay, dtype=np.float64).reshape(-1, 1)
    return decay * m + np.divide(g, mean, out=np.zeros_like(g), where=mean > 0)


def numpy_step(adv: Tensor, momentum: np.ndarray, origin: Tensor, norm: str, eps: float, step: float, bounds):
    a, o = (t.double().cpu().numpy().reshape(t.shape[0], -1) for t in (adv, origin))
    if norm == "linf":
        x = np.clip(a + step * np.sign(momentum), o - eps, o + eps)
    else:
        length = np.linalg.norm(momentum, axis=1, keepdims=True)
        d = a + step * np.divide(momentum, length, out=np.zeros_like(momentum), where=length > 0) - o
        size = np.linalg.norm(d, axis=1, keepdims=True)
        x = o + d * np.minimum(1, np.divide(eps, size, out=np.ones_like(size), where=size > 0))
    if bounds is not None:
        x = np.clip(x, *bounds)
    return torch.from_numpy(x.reshape(adv.shape))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("decay", "step", "bounds"), [(1.0, STEP, None), (0.5, -STEP, (0.1, 0.8)), (0.0, STEP, None)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_reference_is_the_definition(norm, decay, step, bounds, dtype):
    small = 1e-6 if dtype is torch.float32 else 1e-14
    for _, case in all_images(dtype, "cpu"):
        eps = EPS if norm == "linf" else 0.1
        momentum, got = old_momentum(case), case.adv.clone()
        after = numpy_momentum(momentum, case.grad, decay)
        want = numpy_step(case.adv, after, case.origin, norm, eps, step, bounds)
        ops.momentum_step_(got, momentum, case.grad, case.origin, norm=norm, eps=eps, step=step, decay=decay,
                           bounds=bounds, backend="reference")  # fmt: skip
        wide = momentum.double().numpy().reshape(after.shape)
        assert np.abs(wide - after).max() <= small * np.abs(after).max(), case.label
        sure = torch.from_numpy((np.abs(after) > small) | (after == 0)).reshape(got.shape) | (norm == "l2")
        tolerance = 3e-7 if dtype is torch.float32 else 3e-7 * eps  # the l2 radius is kept 2^-22 inside
        assert (got.double() - want)[sure].abs().max() <= tolerance, case.label


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS)
def test_backends_agree_with_the_reference(subject: Subject, norm, dtype):
    g = torch.Generator().manual_seed(1)
    spacing, real_spacing = torch.finfo(dtype).eps, min(torch.finfo(dtype).eps, 2.0**-23)
    for turn, (kind, case) in enumerate(all_images(dtype, subject.device)):
        batch = case.adv.shape[0]
        scale = 1.0 if norm == "linf" else 5.0
        many = (scale * 0.05 * torch.rand(batch, generator=g)).to(subject.device)
        steps = 0.01 * torch.randn(batch, generator=g).to(subject.device)
        kept = torch.rand(batch, generator=g).to(subject.device)
        mask = (torch.rand(case.adv.shape[-1:], generator=g) < 0.7).to(subject.device)
        every = (
            {"eps": scale * EPS, "step": STEP},
            {"eps": scale * EPS, "step": -STEP, "bounds": (0.0, 1.0), "decay": 0.0},
            {"eps": many, "step": steps, "decay": kept},
            {"eps": scale * EPS, "step": STEP, "mask": mask, "decay": 0.9},
        )
        for options in subject.turns(every, turn + DTYPES.index(dtype)):
            label = f"{case.label} {options}"
            before = old_momentum(case, kind)
            want, want_momentum = case.fresh(kind), as_format(before, kind)
            ops.momentum_step_(want, want_momentum, case.grad, case.origin, norm=norm, backend="reference", **options)
            got, momentum = case.fresh(kind), as_format(before, kind)
            back = ops.momentum_step_(
                got, momentum, case.grad, case.origin, norm=norm, backend=subject.backend, **options
            )
            assert back is got
            # The sum of |grad| may differ in its last bits: half an ulp of each term, before they are added.
            terms = before.double().abs() + want_momentum.double().abs() + 1
            assert ((momentum.double() - want_momentum.double()).abs() <= 2 * spacing * terms).all(), label
            if norm == "linf":
                near = (want_momentum != 0) & (want_momentum.double().abs() <= 2 * real_spacing * terms)
                assert torch.equal(got[~near], want[~near]), label
                assert near.sum() <= 0.01 * near.numel(), label
            else:
                assert ulp_distance(got, want) <= 2, label


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS)
def test_a_step_is_pgd_step_along_the_momentum(subject: Subject, norm, dtype):
    case = images((2, 3, 17, 19), "contiguous", dtype, subject.device)
    momentum = old_momentum(case)
    options = {"norm": norm, "eps": EPS if norm == "linf" else 0.3, "step": STEP, "backend": subject.backend}
    got = ops.momentum_step_(case.adv.clone(), momentum, case.grad, case.origin, decay=0.7, **options)
    want = ops.pgd_step_(case.adv.clone(), momentum, case.origin, **options)
    assert torch.equal(got, want) if norm == "linf" else ulp_distance(got, want) <= 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_decay_linf_is_pgd_step_to_the_bit(subject: Subject, dtype):
    case = images((2, 3, 17, 19), "contiguous", dtype, subject.device)
    grad = case.grad * 1e6
    grad.flatten(1)[:, ::7] *= 1e-9  # in float16, their momentum rounds to 0 when it is stored
    for mask in (None, torch.arange(19, device=subject.device) % 3 > 0):
        options = {"norm": "linf", "eps": EPS, "step": STEP, "bounds": (0.0, 1.0), "mask": mask}
        got = ops.momentum_step_(
            case.adv.clone(), old_momentum(case), grad, case.origin, decay=0.0, backend=subject.backend, **options
        )
        assert torch.equal(got, ops.pgd_step_(case.adv.clone(), grad, case.origin, backend="reference", **options))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS)
def test_the_result_is_inside_the_ball(subject: Subject, norm, dtype):
    eps = 3 / 255 if norm == "linf" else 0.05
    case = images((2, 3, 17, 19), "contiguous", dtype, subject.device)
    real = torch.float64 if dtype is torch.float64 else torch.float32
    # The last one takes the momentum back but for rounding.
    for decay, sign in ((1.0, 1.0), (0.0, 1.0), (1.0, -1.0)):
        momentum, grad = torch.zeros_like(case.grad), case.grad.clone()
        adv = case.adv.clone()
        for _ in range(2):
            ops.momentum_step_(adv, momentum, grad, case.origin, norm=norm, eps=eps, step=1.0, decay=decay,
                               backend=subject.backend)  # fmt: skip
            delta = adv.to(real) - case.origin.to(real)
            length = delta.abs().amax((1, 2, 3)) if norm == "linf" else delta.double().flatten(1).norm(dim=1)
            assert (length <= eps).all()
            grad = grad * sign * (1 + 1e-3 * (sign < 0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_image_of_many_pixels_keeps_its_momentum(subject: Subject, dtype):
    """|grad|_1 of a float16 gradient overflows float16, and grad / |grad|_1 would vanish in it."""
    shape = (1, 3, 40, 40) if subject.slow else (1, 3, 200, 200)
    grad = (100 * torch.randn(shape, generator=torch.Generator().manual_seed(3))).to(subject.device, dtype)
    zero = torch.zeros_like(grad)
    momentum = zero.clone()
    for turn in range(1, 4):
        ops.momentum_step_(zero.clone(), momentum, grad, zero, norm="l2", eps=1.0, step=1.0, backend=subject.backend)
        assert abs(momentum.double().abs().mean().item() - turn) <= 4 * turn * torch.finfo(dtype).eps
    want = grad.double() / grad.double().norm()
    got = momentum.double() / momentum.double().norm()
    assert (got - want).norm() <= 2 * torch.finfo(dtype).eps + 1e-12  # torch's own norm


def test_a_lone_pixel_does_not_overflow_half_precision(subject: Subject):
    shape = (1, 1, 300, 300)
    grad = torch.zeros(shape, dtype=torch.float16, device=subject.device)
    momentum, zero = grad.clone(), grad.clone()
    grad[0, 0, 7, 9] = -0.5
    for sign in (1, 1, -1):
        ops.momentum_step_(zero.clone(), momentum, sign * grad, zero, norm="linf", eps=1.0, step=0.5,
                           backend=subject.backend)  # fmt: skip
        assert momentum.isfinite().all()
    assert momentum[0, 0, 7, 9] == torch.tensor(90000.0 - 65504.0).half()


@pytest.mark.parametrize("norm", NORMS)
def test_a_zero_gradient_adds_nothing(subject: Subject, norm):
    case = images((2, 1, 9, 9), "contiguous", torch.float32, subject.device)
    adv, momentum, zero = case.origin + 1e-4, torch.zeros_like(case.adv), torch.zeros_like(case.adv)
    kept = adv.clone()
    ops.momentum_step_(adv, momentum, zero, case.origin, norm=norm, eps=1.0, step=STEP, backend=subject.backend)
    assert torch.equal(adv, kept)
    assert torch.equal(momentum, zero)
    momentum = old_momentum(case)
    half = momentum / 2
    ops.momentum_step_(adv, momentum, zero, case.origin, norm=norm, eps=1.0, step=STEP, decay=0.5,
                       backend=subject.backend)  # fmt: skip
    assert torch.equal(momentum, half)
    assert not torch.equal(adv, kept)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_hidden(subject: Subject, norm, bad):
    for where in ("grad", "momentum"):
        case = images((2, 1, 9, 9), "contiguous", torch.float32, subject.device)
        adv, momentum, grad = case.adv.clone(), torch.zeros_like(case.adv), case.grad.clone()
        (grad if where == "grad" else momentum)[1, 0, 3, 4] = bad
        ops.momentum_step_(adv, momentum, grad, case.origin, norm=norm, eps=EPS, step=STEP, backend=subject.backend)
        assert not adv[0].isnan().any()
        assert not momentum[0].isnan().any()
        assert not momentum[1, 0, 3, 4].isfinite()
        if where == "grad" or bad != bad or norm == "l2":
            assert adv[1, 0, 3, 4].isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("exponent", [-40, -30, 0, 30, 37, -310, -200, 200, 307.6])
def test_gradients_of_any_size_add_the_same(subject: Subject, dtype, exponent):
    if dtype is torch.float32 and abs(exponent) > 40:
        pytest.skip("beyond float32")
    direction = torch.tensor([[3.0, -4.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    grad = (direction * 10.0**exponent).to(dtype).to(subject.device)
    origin = torch.zeros(2, 4, dtype=dtype, device=subject.device)
    momentum = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]], dtype=dtype, device=subject.device)
    adv = ops.momentum_step_(
        origin.clone(), momentum, grad, origin, norm="l2", eps=10.0, step=2.0, decay=0.5, backend=subject.backend
    )
    want = torch.tensor([[12 / 7 + 0.5, -16 / 7, 0, 0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    tolerance = 1e-4 if exponent == -40 and dtype is torch.float32 else 1e-6  # 1e-40 has 16 bits left in float32
    assert torch.allclose(momentum.double().cpu(), want, atol=tolerance)
    assert torch.allclose(adv.double().cpu(), 2 * want / want.norm(dim=1, keepdim=True), atol=tolerance)


@pytest.mark.parametrize("size", [1e-200, 1e-30, 1e30, 1e200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_old_momentum_of_any_size_gives_its_direction(subject: Subject, size, dtype):
    if dtype is torch.float32 and not 1e-40 < size < 1e40:
        pytest.skip("beyond float32")
    momentum = torch.tensor([[3.0, -4.0]], dtype=torch.float64, device=subject.device).mul(size).to(dtype)
    zero = torch.zeros_like(momentum)
    adv = ops.momentum_step_(zero.clone(), momentum, zero.clone(), zero, norm="l2", eps=10.0, step=2.0,
                             backend=subject.backend)  # fmt: skip
    assert torch.allclose(adv.double().cpu(), torch.tensor([[1.2, -1.6]], dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_masked_pixels_keep_the_origin_and_add_nothing(subject: Subject, norm):
    case = images((2, 3, 8, 8), "contiguous", torch.float32, subject.device)
    mask = torch.zeros(8, 8, device=subject.device)
    mask[2:5, 1:7] = 1.0
    still = (mask == 0).expand_as(case.adv)
    grad, wild = case.grad.clone(), case.grad.clone()
    wild[still] = float("nan")
    grad[still] = 0
    results = []
    for g in (wild, grad):
        adv, momentum = case.adv.clone(), old_momentum(case)
        want = numpy_momentum(momentum, grad, 0.9)
        ops.momentum_step_(
            adv, momentum, g, case.origin, norm=norm, eps=EPS, step=STEP, decay=0.9, mask=mask, backend=subject.backend
        )
        assert np.allclose(momentum.cpu().numpy().reshape(want.shape), want, rtol=1e-5, atol=1e-6)
        assert torch.equal(adv[still], case.origin[still])
        assert not torch.equal(adv[~still], case.origin[~still])
        results.append(adv)
    assert torch.equal(results[0], results[1])


def test_only_adv_and_momentum_are_written(subject: Subject):
    """Also what lies between the elements of a strided view: NaN before, NaN after."""
    case = images((2, 3, 8, 9), "strided", torch.float32, subject.device)
    adv, momentum = case.fresh("strided"), old_momentum(case, "strided")
    copies = case.grad.clone(), case.origin.clone()
    ops.momentum_step_(adv, momentum, case.grad, case.origin, norm="linf", eps=EPS, step=STEP, backend=subject.backend)
    written = torch.zeros(adv._base.shape, dtype=torch.bool)
    written[tuple(slice(None, None, 2) for _ in adv.shape)] = True
    for t in (adv, momentum):
        assert t._base[~written].isnan().all()
        assert not t.isnan().any()
    assert torch.equal(copies[0], case.grad)
    assert torch.equal(copies[1], case.origin)


def test_tensors_may_have_strides_of_their_own(subject: Subject):
    case = images((2, 3, 8, 9), "contiguous", torch.float32, subject.device)
    for norm in NORMS:
        want, want_momentum = case.adv.clone(), old_momentum(case)
        options = {"norm": norm, "eps": EPS, "step": STEP, "backend": subject.backend}
        ops.momentum_step_(want, want_momentum, case.grad, case.origin, **options)
        adv, momentum = case.fresh("channels_last"), old_momentum(case, "transposed")
        ops.momentum_step_(adv, momentum, as_format(case.grad, "strided"), case.origin, **options)
        assert ulp_distance(adv, want) <= 2
        assert ulp_distance(momentum, want_momentum) <= 2


def test_results_do_not_depend_on_threads_or_batch():
    case = images((3, 3, 230, 231), "contiguous", torch.float32, "cpu")
    before = torch.get_num_threads()
    for norm in NORMS:
        results = []
        try:
            for n in (1, 2, 3):
                torch.set_num_threads(n)
                adv, momentum = case.adv.clone(), old_momentum(case)
                ops.momentum_step_(adv, momentum, case.grad, case.origin, norm=norm, eps=1.0, step=0.1)
                results.append((adv, momentum))
        finally:
            torch.set_num_threads(before)
        alone, kept = case.adv[1:2].clone(), old_momentum(case)[1:2].clone()
        ops.momentum_step_(alone, kept, case.grad[1:2], case.origin[1:2], norm=norm, eps=1.0, step=0.1)
        for adv, momentum in results:
            assert torch.equal(adv, results[0][0])
            assert torch.equal(momentum, results[0][1])
            assert torch.equal(alone[0], adv[1])
            assert torch.equal(kept[0], momentum[1])


@settings(max_examples=60, deadline=None)
@given(
    eps=st.floats(0, 2, width=32), step=st.floats(-1, 1, width=32), decay=st.floats(0, 2, width=32),
    norm=st.sampled_from(NORMS), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 999),
)  # fmt: skip
def test_no_step_leaves_ball_or_bounds(eps, step, decay, norm, dtype, seed):
    case = images((1, 1, 7, 9), "contiguous", dtype, "cpu", seed)
    origin = case.origin.clamp(-0.3, 0.9)
    adv, momentum, grad = case.adv.clone(), old_momentum(case), case.grad
    real = torch.float64 if dtype is torch.float64 else torch.float32
    for _ in range(3):
        ops.momentum_step_(adv, momentum, grad, origin, norm=norm, eps=eps, step=step, decay=decay, bounds=(-0.5, 1.5))
        delta = (adv.to(real) - origin.to(real)).double()
        assert (delta.abs().max() if norm == "linf" else delta.norm()) <= eps
        assert adv.min() >= -0.5
        assert adv.max() <= 1.5
        grad = grad.flip(-1)


def test_bad_input_is_named():
    x = torch.rand(2, 3, 4, 4)

    def step(adv=None, momentum=None, **options):
        adv = x.clone() if adv is None else adv
        momentum = torch.zeros_like(x) if momentum is None else momentum
        options = {"norm": "linf", "eps": 0.1, "step": 0.01} | options
        return ops.momentum_step_(adv, momentum, torch.ones_like(x), x, **options)

    for options, error, words in (
        ({"decay": -0.1}, ValueError, "decay: wanted a number >= 0, got -0.1"),
        ({"decay": float("nan")}, ValueError, "decay: .* got nan"),
        ({"decay": torch.ones(3)}, ValueError, "decay: .*(2,).*(3,)"),
        ({"decay": "1"}, TypeError, "decay: .* got str"),
        ({"momentum": torch.zeros(2, 3, 4, 5)}, ValueError, r"momentum: wanted \(2, 3, 4, 4\)"),
        ({"momentum": torch.zeros(2, 3, 4, 4).half()}, ValueError, "momentum: .* float16"),
        ({"momentum": torch.zeros(1, 3, 4, 4).expand(2, 3, 4, 4)}, ValueError, "momentum: .*expanded"),
        ({"momentum": x}, ValueError, "origin: shares its memory with momentum"),
        ({"momentum": torch.zeros_like(x).requires_grad_()}, ValueError, "momentum: requires grad"),
        ({"norm": "l1"}, ValueError, "norm: "),
    ):
        with pytest.raises(error, match=words):
            step(**options)
    both = x.clone()
    with pytest.raises(ValueError, match="momentum: shares its memory with adv"):
        step(adv=both, momentum=both)


def test_autograd_notices_both_writes():
    for which in (0, 1):
        written = [torch.zeros(1, 2), torch.zeros(1, 2)]
        loss = (written[which] * torch.ones(2, requires_grad=True)).sum()
        ops.momentum_step_(*written, torch.ones(1, 2), torch.zeros(1, 2), norm="linf", eps=1, step=0.5)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
