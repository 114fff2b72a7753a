"""apgd_step_: every backend against the reference, the reference against NumPy in float64, and the guarantees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastattack import ops
from tests.cases import DTYPES, all_images, as_format, images, ulp_distance
from tests.subjects import Subject

EPS, STEP = 5 / 255, 2 / 255


def numpy_step(adv, previous, grad, origin, norm, eps, step, momentum, bounds=None):
    """Float64, written from the definition. eps, step, momentum: numbers or (B,)."""
    a, q, g, o = (t.double().cpu().numpy().reshape(t.shape[0], -1) for t in (adv, previous, grad, origin))
    eps, step, momentum = (np.asarray(v, dtype=np.float64).reshape(-1, 1) for v in (eps, step, momentum))

    def project(x):
        d = x - o
        if norm == "linf":
            d = np.clip(d, -eps, eps)
        else:
            size = np.linalg.norm(d, axis=1, keepdims=True)
            d = d * np.minimum(1, np.divide(eps, size, out=np.ones_like(size), where=size > 0))
        return o + d if bounds is None else np.clip(o + d, *bounds)

    length = np.linalg.norm(g, axis=1, keepdims=True)
    unit = np.sign(g) if norm == "linf" else np.divide(g, length, out=np.zeros_like(g), where=length > 0)
    z = project(a + step * unit)
    return torch.from_numpy(project(a + momentum * (z - a) + (1 - momentum) * (a - q)).reshape(adv.shape))


def before(case, kind: str = "contiguous") -> Tensor:
    """Where the sample was one step earlier."""
    g = torch.Generator().manual_seed(7)
    moved = 0.01 * torch.randn(case.adv.shape, generator=g, dtype=torch.float64)
    return as_format((case.adv.double().cpu() + moved).to(case.adv), kind)


def real_of(x: Tensor) -> Tensor:
    return x if x.dtype is torch.float64 else x.float()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("bounds", [None, (0.1, 0.8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_backend_is_the_definition(subject: Subject, norm, bounds, dtype):
    for number, (_, case) in enumerate(all_images(dtype, subject.device)):
        if subject.slow and case.adv.numel() > 200:
            continue
        batch = case.adv.shape[0]
        per_sample = 0.1 * torch.rand(batch, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        scale = 1.0 if norm == "linf" else 5.0
        every = (
            (scale * EPS, scale * STEP, 0.75),
            (scale * EPS, -scale * STEP, 0.3),
            (scale * per_sample, scale * per_sample, 1 - 3 * per_sample),
        )
        for eps, step, momentum in subject.turns(every, number + DTYPES.index(dtype) + (bounds is None)):
            previous, adv = before(case), case.adv.clone()
            want = numpy_step(adv, previous, case.grad, case.origin, norm, eps, step, momentum, bounds)
            options: dict[str, Any] = {"eps": eps, "step": step, "momentum": momentum, "bounds": bounds}
            ops.apgd_step_(adv, previous, case.grad, case.origin, norm=norm, backend=subject.backend, **options)
            # Three roundings of the scale of an image, and the part of the l2 radius that is kept in reserve, twice.
            reserve = 2 * 2**-22 * float(torch.as_tensor(eps).max()) if norm == "l2" else 0.0
            slack = 4e-7 if dtype is torch.float32 else 1e-8 if norm == "linf" else 1e-15
            assert (adv.double().cpu() - want).abs().max() <= slack + reserve, (case.label, options)
            assert torch.equal(previous, case.adv), case.label


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_backends_agree_with_the_reference(subject: Subject, norm, dtype):
    g = torch.Generator().manual_seed(1)
    for number, (kind, case) in enumerate(all_images(dtype, subject.device)):
        if subject.slow and case.adv.numel() > (4000 if kind == "channels_last" and dtype is torch.float32 else 500):
            continue
        batch = case.adv.shape[0]
        scale = 1.0 if norm == "linf" else 5.0
        many = (scale * 0.05 * torch.rand(batch, generator=g)).to(subject.device)
        steps = (scale * 0.02 * torch.randn(batch, generator=g)).to(subject.device)
        weights = torch.where(torch.rand(batch, generator=g) < 0.4, 1.0, torch.rand(batch, generator=g))
        mask = (torch.rand(case.adv.shape[-1:], generator=g) < 0.7).to(subject.device)
        every = (
            {"eps": scale * EPS, "step": scale * STEP},
            {"eps": scale * EPS, "step": -scale * STEP, "bounds": (0.0, 1.0)},
            {"eps": many, "step": steps, "momentum": weights.to(subject.device)},
            {"eps": scale * EPS, "step": scale * STEP, "mask": mask},
        )
        for options in subject.turns(every, number + DTYPES.index(dtype)):
            results = []
            for backend in ("reference", subject.backend):
                adv, previous = case.fresh(kind), before(case, kind)
                back = ops.apgd_step_(adv, previous, case.grad, case.origin, norm=norm, backend=backend, **options)
                assert back is adv
                results.append((adv, previous))
            (want, want_previous), (got, got_previous) = results
            assert torch.equal(got_previous, want_previous), f"{case.label} {options}"
            if norm == "linf":
                assert torch.equal(got, want), f"{case.label} {options}"
            else:
                assert ulp_distance(got, want) <= 1, f"{case.label} {options}"


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_momentum_of_one_is_pgd_step(subject: Subject, dtype):
    """To the bit for linf; previous has no weight then, and may hold NaN."""
    case = images((2, 3, 9, 13), "contiguous", dtype, subject.device)
    case.origin.clamp_(0.1, 0.8)  # outside the bounds l2's P(P(x)) is not P(x)
    for norm, eps in (("linf", EPS), ("l2", 0.1)):
        for bounds in (None, (0.1, 0.8)):
            options: dict[str, Any] = {"norm": norm, "eps": eps, "step": 0.03, "bounds": bounds}
            options["backend"] = subject.backend
            want = ops.pgd_step_(case.adv.clone(), case.grad, case.origin, **options)
            got, previous = case.adv.clone(), torch.full_like(case.adv, float("nan"))
            ops.apgd_step_(got, previous, case.grad, case.origin, momentum=1, **options)
            assert torch.equal(previous, case.adv)
            if norm == "linf":
                assert torch.equal(got, want)
            else:
                assert ulp_distance(got, want) <= 2


def inside(adv: Tensor, origin: Tensor, norm: str, eps: float) -> bool:
    delta = (real_of(adv) - real_of(origin)).flatten(1).double()
    size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    return bool((size <= eps).all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_result_is_inside_the_ball(subject: Subject, norm, dtype):
    """Also where all pixels round alike (one value for all), and where long vectors cancel."""
    eps = 3 / 255 if norm == "linf" else 0.05
    case = images((2, 3, 17, 19), "contiguous", dtype, subject.device)
    for bounds in (None, (0.05, 0.9)):
        origin = case.origin if bounds is None else case.origin.clamp(0.1, 0.8)
        for adv, previous, grad in (
            (case.adv.clone(), before(case), case.grad),
            (origin + 0.011, origin + 0.003, torch.full_like(origin, 0.37)),
            (case.adv.clone(), case.adv + 300 * case.grad, case.grad),
            (origin + 1e6 * case.grad, origin + 1.75e6 * case.grad, -case.grad),
        ):
            ops.apgd_step_(adv, previous, grad, origin, norm=norm, eps=eps, step=0.02, backend=subject.backend,
                           bounds=bounds)  # fmt: skip
            assert inside(adv, origin, norm, eps)
            if bounds is not None:
                low, high = (torch.tensor(b, dtype=torch.float64) for b in bounds)
                assert ((adv.double().cpu() >= low) & (adv.double().cpu() <= high)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_l2_ball_is_used_up_to_its_edge(subject: Subject, dtype):
    case = images((2, 3, 17, 19), "contiguous", dtype, subject.device)
    adv, previous = case.adv.clone(), before(case)
    ops.apgd_step_(adv, previous, case.grad, case.origin, norm="l2", eps=0.05, step=1.0, backend=subject.backend)
    length = (real_of(adv) - real_of(case.origin)).double().flatten(1).norm(dim=1)
    assert (length >= 0.05 * (1 - 2e-5)).all()  # rounding inwards costs up to an ulp of the image a pixel


@pytest.mark.parametrize("size", [1.0, 1e5])
def test_cancelling_vectors_are_measured(subject: Subject, size):
    """previous far away, on the line on which adv came: the six products say nothing of the small difference."""
    g = torch.Generator().manual_seed(0)
    origin = torch.zeros(2, 500, dtype=torch.float64)
    far, across = (torch.randn(2, 500, generator=g, dtype=torch.float64) for _ in range(2))
    far, across = far / far.norm(dim=1, keepdim=True), across / across.norm(dim=1, keepdim=True)
    # z = eps far; new = z / 2 + (2 adv - previous) / 2, of which only 3 eps across is left.
    eps, options = 1e-4, {"step": 0.0, "momentum": 0.5}
    adv = size * far
    previous = 2 * adv + eps * far - 6 * eps * across
    arguments = [t.to(subject.device) for t in (adv, previous, 0 * adv, origin)]
    want = numpy_step(adv, previous, 0 * adv, origin, "l2", eps, 0.0, 0.5)
    got = ops.apgd_step_(*arguments, norm="l2", eps=eps, backend=subject.backend, **options)  # type: ignore[arg-type]
    assert inside(got, arguments[3], "l2", eps)
    assert (got.cpu() - want).abs().max() <= 1e-5 * eps


def test_masked_pixels_keep_the_origin(subject: Subject):
    """What the mask hides is not looked at: neither huge numbers nor NaN there change the rest."""
    case = images((2, 3, 8, 8), "contiguous", torch.float32, subject.device)
    mask = torch.zeros(8, 8, device=subject.device)
    mask[2:5, 1:7] = 1.0
    still = (mask == 0).expand_as(case.adv)
    for norm, bounds in (("linf", None), ("l2", None), ("l2", (0.1, 0.9))):
        results = []
        for garbage in (0.0, 1e30, float("nan")):
            adv, previous, grad = (torch.where(still, garbage, t) for t in (case.adv, before(case), case.grad))
            kept = adv.clone()
            ops.apgd_step_(
                adv, previous, grad, case.origin, norm=norm, eps=0.05, step=STEP, bounds=bounds, mask=mask,
                backend=subject.backend,
            )  # fmt: skip
            for written in (adv, previous):
                assert torch.equal(written[still], case.origin[still])
            assert torch.equal(previous[~still], kept[~still])
            assert not torch.equal(adv[~still], case.origin[~still])
            results.append(adv)
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)])
def test_nan_is_not_hidden(subject: Subject, norm, bounds):
    for place in range(3 if norm == "linf" else 4):  # linf does not look at more of origin than pgd_step_ does
        case = images((2, 1, 9, 9), "contiguous", torch.float32, subject.device)
        tensors = [case.adv.clone(), before(case), case.grad.clone(), case.origin.clone()]
        tensors[place][1, 0, 3, 4] = float("nan")
        adv = ops.apgd_step_(*tensors, norm=norm, eps=EPS, step=STEP, bounds=bounds, backend=subject.backend)
        assert not adv[0].isnan().any()
        assert adv[1, 0, 3, 4].isnan(), place


def test_nothing_moves_without_gradient_and_momentum(subject: Subject):
    case = images((2, 1, 9, 9), "contiguous", torch.float32, subject.device)
    for norm in ("linf", "l2"):
        adv = case.origin + 1e-4
        kept, previous = adv.clone(), adv.clone()
        ops.apgd_step_(adv, previous, 0 * adv, case.origin, norm=norm, eps=1.0, step=STEP, backend=subject.backend)
        assert torch.equal(adv, kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("exponent", [-40, -30, 30, 37, -200, 200])
def test_gradients_of_any_size_give_the_same_l2_direction(subject: Subject, dtype, exponent):
    if dtype is torch.float32 and abs(exponent) > 40:
        pytest.skip("beyond float32")
    direction = torch.tensor([[3.0, -4.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    grad = (direction * 10.0**exponent).to(dtype).to(subject.device)
    origin = torch.zeros(2, 4, dtype=dtype, device=subject.device)
    adv, previous = origin.clone(), torch.ones_like(origin)
    ops.apgd_step_(adv, previous, grad, origin, norm="l2", eps=10.0, step=2.0, momentum=0.5, backend=subject.backend)
    want = torch.tensor([[1.2, -1.6, 0, 0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64) / 2 - 0.5
    tolerance = 1e-4 if exponent == -40 and dtype is torch.float32 else 1e-6  # 1e-40 has 16 bits left in float32
    assert torch.allclose(adv.double().cpu(), want, atol=tolerance)


@pytest.mark.parametrize("scale", [1e-170, 1e170])
def test_float64_squares_do_not_overflow(subject: Subject, scale):
    g = torch.Generator().manual_seed(0)
    adv, previous, grad = (torch.randn(2, 7, generator=g, dtype=torch.float64) for _ in range(3))
    origin = torch.zeros(2, 7, dtype=torch.float64)
    want = numpy_step(adv, previous, grad, origin, "l2", 0.5, 1.0, 0.75)
    tensors = [(scale * t).to(subject.device) for t in (adv, previous, grad, origin)]
    got = ops.apgd_step_(*tensors, norm="l2", eps=0.5 * scale, step=scale, backend=subject.backend)
    assert torch.allclose(got.cpu() / scale, want, atol=1e-6)


def test_only_adv_and_previous_are_written(subject: Subject):
    """Also what lies between the elements of a strided view: NaN before, NaN after."""
    case = images((2, 3, 8, 9), "strided", torch.float32, subject.device)
    copies = case.grad.clone(), case.origin.clone()
    for norm in ("linf", "l2"):
        written = case.fresh("strided"), before(case, "strided")
        ops.apgd_step_(*written, case.grad, case.origin, norm=norm, eps=EPS, step=STEP, backend=subject.backend)
        for view in written:
            between = torch.ones_like(view._base, dtype=torch.bool)
            between[tuple(slice(None, None, 2) for _ in view.shape)] = False
            assert view._base[between].isnan().all()
            assert not view.isnan().any()
    assert torch.equal(copies[0], case.grad)
    assert torch.equal(copies[1], case.origin)


@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)])
def test_results_do_not_depend_on_threads_or_batch(bounds):
    case = images((3, 3, 130, 131), "contiguous", torch.float32, "cpu")
    options: dict[str, Any] = {"norm": "l2", "eps": 1.0, "step": 0.1, "bounds": bounds, "backend": "cpu"}
    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(ops.apgd_step_(case.adv.clone(), before(case), case.grad, case.origin, **options))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    alone = case.adv[1:2].clone()
    ops.apgd_step_(alone, before(case)[1:2].clone(), case.grad[1:2], case.origin[1:2], **options)
    assert torch.equal(alone[0], results[0][1])


@settings(max_examples=80, deadline=None)
@given(
    eps=st.floats(0, 2, width=32), step=st.floats(-3, 3, width=32), momentum=st.floats(0, 1, width=32),
    scale=st.sampled_from([1e-3, 1.0, 300.0]), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 999),
    norm=st.sampled_from(["linf", "l2"]), bounded=st.booleans(),
)  # fmt: skip
def test_never_leaves_ball_or_bounds(eps, step, momentum, scale, dtype, seed, norm, bounded):
    case = images((2, 1, 7, 9), "contiguous", dtype, "cpu", seed)
    low, high = (float(torch.tensor(v * scale).to(dtype)) for v in (-0.3, 0.9))
    origin = (case.origin * scale).clamp(low, high)
    bounds = (low, high) if bounded else None
    adv, previous = case.adv * scale, before(case) * scale
    kept = adv.clone()
    for _ in range(2):
        ops.apgd_step_(
            adv, previous, case.grad, origin, norm=norm, eps=eps, step=step, momentum=momentum, bounds=bounds
        )
        assert inside(adv, origin, norm, eps)
        assert torch.equal(previous, kept)
        if bounded:
            assert low <= adv.min().item()
            assert adv.max().item() <= high
        kept = adv.clone()


def test_an_attack_on_a_linear_model_reaches_the_closed_form(subject: Subject):
    """For loss <w, x> the optimum of the linf ball is eps sign(w), of the l2 ball eps w / |w|."""
    w = torch.randn(2, 50, generator=torch.Generator().manual_seed(0)).to(subject.device)
    x = torch.rand(2, 50, generator=torch.Generator().manual_seed(1)).to(subject.device)
    for norm, best in (("linf", 0.1 * w.sign()), ("l2", 0.1 * w / w.norm(dim=1, keepdim=True))):
        adv, previous = x.clone(), x.clone()
        for k in range(12):
            ops.apgd_step_(
                adv, previous, w, x, norm=norm, eps=0.1, step=0.02, momentum=0.75 if k else 1.0, backend=subject.backend
            )
        assert torch.allclose(adv - x, best, atol=1e-6)


def step(**changed: Any) -> Tensor:
    x = torch.rand(2, 3, 4, 4)
    given = {"adv": x.clone(), "previous": x.clone(), "grad": x * 0 + 1, "origin": x.clone(), "norm": "linf"}
    return ops.apgd_step_(**(given | {"eps": 0.1, "step": 0.01} | changed))


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"previous": torch.ones(2, 3, 4, 5)}, ValueError, ["previous", "(2, 3, 4, 4)", "(2, 3, 4, 5)"]),
        ({"previous": torch.ones(2, 3, 4, 4).double()}, ValueError, ["previous", "float32", "float64"]),
        ({"previous": torch.ones(1, 1, 1, 1).expand(2, 3, 4, 4)}, ValueError, ["previous", "expanded"]),
        ({"previous": torch.ones(2, 3, 4, 4, requires_grad=True)}, ValueError, ["previous", "requires grad"]),
        ({"previous": [1.0]}, TypeError, ["previous", "list"]),
        ({"grad": torch.ones(2, 3, 4)}, ValueError, ["grad"]),
        ({"momentum": -0.1}, ValueError, ["momentum", ">= 0", "-0.1"]),
        ({"momentum": float("nan")}, ValueError, ["momentum", "nan"]),
        ({"momentum": torch.ones(3)}, ValueError, ["momentum", "(2,)", "(3,)"]),
        ({"momentum": "0.75"}, TypeError, ["momentum", "str"]),
        ({"norm": "l1"}, ValueError, ["norm", "'l1'"]),
        ({"eps": -1.0}, ValueError, ["eps", "-1"]),
        ({"step": float("nan")}, ValueError, ["step", "nan"]),
        ({"bounds": (1, 0)}, ValueError, ["bounds"]),
        ({"mask": torch.ones(5)}, ValueError, ["mask", "(5,)"]),
        ({"backend": "gpu"}, ValueError, ["backend", "'gpu'"]),
    ],
)
def test_bad_input_is_named(changed, error, words):
    with pytest.raises(error) as caught:
        step(**changed)
    for word in words:
        assert word in str(caught.value)


def test_tensors_that_share_memory_are_refused():
    x = torch.rand(2, 3, 4, 4)
    for name in ("previous", "grad", "origin"):
        with pytest.raises(ValueError, match=f"{name}: shares its memory with adv"):
            step(adv=x, **{name: x})
    for name in ("grad", "origin"):
        with pytest.raises(ValueError, match=f"{name}: shares its memory with previous"):
            step(previous=x, **{name: x})


def test_empty_batches_autograd_and_arrays():
    empty = torch.zeros(0, 3, 4, 4)
    assert step(adv=empty, previous=empty.clone(), grad=empty.clone(), origin=empty.clone()) is empty
    w, previous = torch.ones(2, requires_grad=True), torch.zeros(1, 2)
    loss = (previous * w).sum()
    step(adv=torch.ones(1, 2), previous=previous, grad=torch.ones(1, 2), origin=torch.zeros(1, 2))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    adv, zeros = np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32)
    back = step(adv=adv, previous=zeros.copy(), grad=zeros + 1, origin=zeros, eps=1, step=0.5, momentum=1)
    assert back is adv
    assert (adv == 0.5).all()


def test_a_compiled_function_traces_through():
    def function(adv, previous, grad, origin, weight):
        ops.apgd_step_(adv, previous, 2 * grad, origin, norm="l2", eps=0.3, step=weight / 10, momentum=weight)
        return adv + previous

    case = images((2, 1, 8, 8), "contiguous", torch.float32, "cpu")
    weight = torch.tensor([0.75, 1.0])
    want = function(case.adv.clone(), before(case), case.grad, case.origin, weight)
    adv, previous = case.adv.clone(), before(case)
    got = torch.compile(function, backend="aot_eager", fullgraph=True)(adv, previous, case.grad, case.origin, weight)
    assert torch.equal(got, want)
    assert torch.equal(previous, case.adv)
    assert torch.equal(adv + previous, want)  # the caller's tensors are those that were written


def test_the_custom_op_passes_torchs_own_checks():
    x = torch.rand(2, 3, 4, 4)
    arguments = (x.clone(), x.clone(), x + 1, x, "linf", 0.1, None, None, torch.ones(2), 0.75, None, None, None, None)
    torch.library.opcheck(
        torch.ops.fastattack.apgd_step_, (*arguments, "auto"), test_utils=("test_schema", "test_faketensor")
    )
