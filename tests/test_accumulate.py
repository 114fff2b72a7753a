"""accumulate_: every backend against NumPy, operation by operation, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastattack import ops
from tests.cases import DTYPES, all_images, as_format, images
from tests.subjects import Subject


def expected(total: Tensor, grad: Tensor, keep, weight) -> Tensor:
    """Each operation rounded, in float32 or float64, as NumPy does it."""
    real = np.float64 if total.dtype is torch.float64 else np.float32
    t, g = (x.cpu().double().numpy().astype(real) for x in (total, grad))
    wide = [-1] + [1] * (total.dim() - 1)
    k, w = (np.broadcast_to(np.asarray(v, np.float64).astype(real), len(t)).reshape(wide) for v in (keep, weight))
    with np.errstate(all="ignore"):
        kept, added = np.where(k == 0, real(0), k * t), np.where(w == 0, real(0), w * g)
        return torch.from_numpy(kept + added).to(total.dtype)


def same(got: Tensor, want: Tensor) -> bool:
    return torch.equal(got.cpu().nan_to_num(nan=7.0), want.nan_to_num(nan=7.0)) and torch.equal(
        got.cpu().isnan(), want.isnan()
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_backend_is_the_definition_to_the_bit(subject: Subject, dtype):
    g = torch.Generator().manual_seed(1)
    for kind, case in all_images(dtype, subject.device):
        batch = case.adv.shape[0]
        keeps, weights = torch.randn(batch, generator=g), torch.randn(batch, generator=g)
        for keep, weight in ((1.0, 1.0), (0.9, 1 / 3), (keeps, weights)):
            total = case.fresh(kind)
            want = expected(total, case.clean, keep, weight)
            options = {"keep": keep, "weight": weight, "backend": subject.backend}
            assert ops.accumulate_(total, case.clean, **options) is total
            assert same(total, want), f"{case.label} {keep} {weight}"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_number_of_half_precision_is_read_rounded_and_written(subject: Subject, dtype):
    """All bit patterns (NaN, infinities, subnormals, both zeros), and what lies halfway between two or beyond."""
    if subject.name == "triton-interpreted" and dtype is torch.bfloat16:
        pytest.skip("the interpreter itself loses bfloat16's subnormals")
    patterns = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)[None]
    case = patterns.to(subject.device)
    for weight in (0.0, 2.0**-12, 2.0**-11, 3 * 2.0**-12, 2.0**-9, -(2.0**-8), 1 / 3, 1e5):
        got = ops.accumulate_(case.clone(), case, weight=weight, backend=subject.backend).cpu()
        want = expected(patterns, patterns, 1.0, weight)
        number = ~want.isnan()
        assert torch.equal(got.isnan(), want.isnan())
        assert torch.equal(got[number].view(torch.int16), want[number].view(torch.int16)), weight


def test_a_share_of_zero_is_not_looked_at(subject: Subject):
    nan, inf = float("nan"), float("inf")
    total = torch.tensor([[nan, 1.0], [nan, 2.0], [inf, 3.0], [4.0, nan]], device=subject.device)
    grad = torch.tensor([[5.0, 6.0], [nan, 7.0], [8.0, inf], [nan, 9.0]], device=subject.device)
    keep, weight = torch.tensor([0.0, 0.0, -0.0, 1.0]), torch.tensor([1.0, 0.0, 2.0, 0.0])
    ops.accumulate_(total, grad, keep=keep, weight=weight, backend=subject.backend)
    assert same(total, torch.tensor([[5.0, 6.0], [0.0, 0.0], [16.0, inf], [4.0, nan]]))
    for options, want in (({"keep": 0.0}, grad), ({"weight": 0.0}, total)):
        assert same(ops.accumulate_(total.clone(), grad, backend=subject.backend, **options), want.cpu())


def test_a_nan_that_counts_stays(subject: Subject):
    case = images((2, 1, 5, 5), "contiguous", torch.float32, subject.device)
    for which in (0, 1):
        tensors = [case.adv.clone(), case.grad.clone()]
        tensors[which][1, 0, 2, 3] = float("nan")
        ops.accumulate_(*tensors, keep=0.5, weight=0.5, backend=subject.backend)
        assert tensors[0][1, 0, 2, 3].isnan()
        assert tensors[0].isnan().sum() == 1


def test_the_mean_and_the_worst_of_several_gradients(subject: Subject):
    grads = [torch.randn(3, 7, generator=torch.Generator().manual_seed(k)).to(subject.device) for k in range(4)]
    total = torch.full_like(grads[0], float("nan"))
    for k, grad in enumerate(grads):
        ops.accumulate_(total, grad, keep=float(k > 0), weight=1 / 4, backend=subject.backend)
    assert torch.allclose(total, torch.stack(grads).mean(0), atol=1e-6)
    losses = torch.tensor([[1.0, 5.0, 2.0], [3.0, 4.0, 2.5], [2.0, 6.0, 1.0], [0.0, 1.0, 7.0]])
    worst = torch.full((3,), -torch.inf)
    for grad, loss in zip(grads, losses, strict=True):
        over = (loss > worst).float()
        worst = torch.maximum(worst, loss)
        ops.accumulate_(total, grad, keep=1 - over, weight=over, backend=subject.backend)
    assert torch.equal(total, torch.stack([grads[losses[:, b].argmax()][b] for b in range(3)]))


def test_only_total_is_written(subject: Subject):
    case = images((2, 3, 8, 9), "strided", torch.float32, subject.device)
    total, kept = case.fresh("strided"), case.grad.clone()
    ops.accumulate_(total, as_format(case.grad, "transposed"), backend=subject.backend)
    written = torch.zeros(total._base.shape, dtype=torch.bool)
    written[tuple(slice(None, None, 2) for _ in total.shape)] = True
    assert total._base[~written].isnan().all()
    assert torch.equal(total, case.adv + case.grad)
    assert torch.equal(case.grad, kept)


def test_results_do_not_depend_on_threads():
    case = images((2, 3, 130, 131), "contiguous", torch.float32, "cpu")
    before, results = torch.get_num_threads(), []
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            results.append(ops.accumulate_(case.adv.clone(), case.grad, keep=0.3, weight=0.7))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])


@settings(max_examples=100, deadline=None)
@given(keep=st.floats(-1e3, 1e3), weight=st.floats(-1e3, 1e3), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 999))
def test_any_shares(keep, weight, dtype, seed):
    case = images((2, 1, 3, 37), "contiguous", dtype, "cpu", seed)
    want = expected(case.adv, case.clean, keep, weight)
    assert same(ops.accumulate_(case.adv.clone(), case.clean, keep=keep, weight=weight), want)


def test_bad_input_is_named():
    x = torch.rand(2, 3)
    for options, error, words in (
        ({"keep": float("nan")}, ValueError, "keep: .* got nan"),
        ({"weight": torch.ones(3)}, ValueError, "weight: .*(2,).*(3,)"),
        ({"weight": "1"}, TypeError, "weight: .* got str"),
    ):
        with pytest.raises(error, match=words):
            ops.accumulate_(x.clone(), x, **options)
    with pytest.raises(ValueError, match="grad: wanted"):
        ops.accumulate_(x, x.double())
    with pytest.raises(ValueError, match="grad: shares its memory with total"):
        ops.accumulate_(x, x)
    with pytest.raises(ValueError, match="total: requires grad"):
        ops.accumulate_(x.clone().requires_grad_(), x)
    leaf = torch.ones(3, requires_grad=True)
    total = torch.zeros(2, 3)
    loss = (total * leaf).sum()
    ops.accumulate_(total, x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
