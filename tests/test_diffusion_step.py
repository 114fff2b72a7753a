"""diffusion_step_: every backend against NumPy to the bit, its normals against Philox and Box-Muller in float64."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastattack import ops
from tests.cases import DTYPES, all_images, as_format, images
from tests.subjects import Subject

NAN, INF = float("nan"), float("inf")
STREAM = 3
WORD = np.uint64(0xFFFFFFFF)


def philox(count: int, seed: int, step: int, sample_id: int) -> np.ndarray:
    """Words (quads, 4) of Philox 4x32-10 from the paper (Salmon et al., SC 2011), in NumPy."""
    quads = np.arange((count + 3) // 4, dtype=np.uint64)
    name = sample_id % 2**64
    c = [quads, *(np.full_like(quads, v) for v in (name & 0xFFFFFFFF, name >> 32, STREAM | step << 8))]
    keys = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        first, second = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        k0, k1 = map(np.uint64, keys)
        c = [(second >> np.uint64(32)) ^ c[1] ^ k0, second & WORD, (first >> np.uint64(32)) ^ c[3] ^ k1, first & WORD]
        keys = [(keys[0] + 0x9E3779B9) % 2**32, (keys[1] + 0xBB67AE85) % 2**32]
    return np.stack(c, -1)


def normals(count: int, seed: int, step: int, sample_id: int) -> np.ndarray:
    """Box-Muller on pairs of words, of whose 32 bits the upper 24 count, in float64."""
    upper = (philox(count, seed, step, sample_id) >> np.uint64(8)).astype(float).reshape(-1, 2)
    radius, angle = np.sqrt(-2 * np.log((upper[:, 0] + 1) / 2**24)), upper[:, 1] * (2 * np.pi / 2**24)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1).reshape(-1)[:count]


def alone(shape: tuple[int, ...], **options) -> Tensor:
    """z itself."""
    return ops.diffusion_step_(torch.full(shape, NAN), None, coefficients=(0.0, 0.0, 1.0), **options)


def test_the_normals_are_philox_and_box_muller(subject: Subject):
    ids = torch.tensor([0, 7, 2**40 + 3, -1])
    for seed, step in ((0, 0), (2**63 + 5, 1), (2**64 - 1, 2**24 - 1)):
        z = torch.full((4, 3, 5, 7), NAN, device=subject.device)
        options = {"seed": seed, "step": step, "sample_ids": ids, "backend": subject.backend}
        ops.diffusion_step_(z, None, coefficients=(0.0, 0.0, 1.0), **options)
        for row, name in zip(z.cpu().double().flatten(1).numpy(), ids.tolist(), strict=True):
            assert np.abs(row - normals(105, seed, step, name)).max() < 2e-6


def test_steps_and_ids_count_from_0():
    assert torch.equal(alone((2, 9), seed=4), alone((2, 9), seed=4, step=0, sample_ids=torch.arange(2)))


@functools.cache
def drawn(shape: tuple[int, ...], seed: int, step: int, ids: tuple[int, ...]) -> Tensor:
    return alone(shape, seed=seed, step=step, sample_ids=torch.tensor(ids), backend="reference")


def expected(x: Tensor, eps_hat: Tensor | None, z: Tensor, coefficients) -> Tensor:
    """Each operation rounded, in float32 or float64, as NumPy does it."""
    real = np.float64 if x.dtype is torch.float64 else np.float32
    wide = [-1] + [1] * (x.dim() - 1)
    total = None
    with np.errstate(all="ignore"):
        for value, tensor in zip(coefficients, (x, x if eps_hat is None else eps_hat, z), strict=True):
            share = np.broadcast_to(np.asarray(value, np.float64).astype(real), len(x)).reshape(wide)
            term = np.where(share == 0, real(0), share * tensor.cpu().double().numpy().astype(real))
            total = term if total is None else total + term
    return torch.from_numpy(total).to(x.dtype)


def same(got: Tensor, want: Tensor) -> bool:
    return torch.equal(got.cpu().nan_to_num(nan=7.0), want.nan_to_num(nan=7.0)) and torch.equal(
        got.cpu().isnan(), want.isnan()
    )


def calls(batch: int, device: str):
    """(coefficients, with eps_hat, seed, step, ids)"""
    g = torch.Generator().manual_seed(1)
    a, b, c = torch.randn(3, batch, generator=g, dtype=torch.float64)
    holes = torch.where(torch.arange(batch) % 2 == 1, c, 0.0)
    ids = torch.arange(batch, device=device) * (2**33 + 1) + 5
    yield (1.02, -0.05, 0.1), True, 3, 0, None
    yield (1 / 3, 0, 0.9), False, 2**64 - 1, 2**24 - 1, ids
    yield (0.99, -0.2, 0.0), True, 3, 0, None
    yield (a, b, holes), True, 2**63, 999, ids
    yield (a.float(), 0.0, holes), False, 5, 1, None


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_backend_is_the_definition_to_the_bit(subject: Subject, dtype):
    for layout, (kind, case) in enumerate(all_images(dtype, subject.device)):
        shape = tuple(case.adv.shape)
        for number, (coefficients, guided, seed, step, ids) in enumerate(calls(shape[0], subject.device)):
            if subject.name == "triton-interpreted" and (layout + number) % 4:
                continue  # slow: each call comes with other layouts
            z = drawn(shape, seed, step, tuple(range(shape[0]) if ids is None else ids.tolist()))
            eps_hat = case.grad * 1e4 if guided else None
            want = expected(case.adv, eps_hat, z, coefficients)
            x = case.fresh(kind)
            options = {"coefficients": coefficients, "seed": seed, "step": step, "sample_ids": ids}
            assert ops.diffusion_step_(x, eps_hat, backend=subject.backend, **options) is x
            assert same(x, want), f"{case.label} {number}"
            if kind == "strided":
                assert int(x._base.isnan().sum()) == x._base.numel() - x.numel(), "written beside x"


def test_a_coefficient_of_zero_is_not_looked_at(subject: Subject):
    x = torch.tensor([[NAN, 1.0], [2.0, NAN], [INF, 3.0]], device=subject.device)
    eps_hat = torch.tensor([[4.0, 5.0], [NAN, 6.0], [NAN, INF]], device=subject.device)
    a, b = torch.tensor([0.0, 1.0, -0.0]), torch.tensor([1.0, 0.0, 1e-60], dtype=torch.float64)
    options = {"seed": 1, "backend": subject.backend}
    got = ops.diffusion_step_(x.clone(), eps_hat, coefficients=(a, b, 0.0), **options)
    assert same(got, torch.tensor([[4.0, 5.0], [2.0, NAN], [0.0, 0.0]]))
    got = ops.diffusion_step_(x.clone(), eps_hat, coefficients=(0, 0, 1), **options)
    assert torch.equal(got.cpu(), alone((3, 2), seed=1, backend="reference"))
    assert torch.equal(ops.diffusion_step_(got.clone(), None, coefficients=(1, 0, 0), **options), got)


def test_a_nan_that_counts_stays(subject: Subject):
    case = images((2, 1, 5, 5), "contiguous", torch.float32, subject.device)
    for which in (0, 1):
        tensors = [case.adv.clone(), case.grad.clone()]
        tensors[which][1, 0, 2, 3] = NAN
        ops.diffusion_step_(*tensors, coefficients=(0.5, 0.5, 0.5), seed=0, backend=subject.backend)
        assert tensors[0][1, 0, 2, 3].isnan()
        assert tensors[0].isnan().sum() == 1


def test_only_x_is_written(subject: Subject):
    case = images((2, 3, 8, 9), "strided", torch.float32, subject.device)
    eps_hat = as_format(case.grad, "transposed")
    for coefficients in ((0.9, 0.1, 0.3), (0.9, 0.1, 0.0)):
        x = case.fresh("strided")
        ops.diffusion_step_(x, eps_hat, coefficients=coefficients, seed=2, backend=subject.backend)
        assert int(x._base.isnan().sum()) == x._base.numel() - x.numel()
        assert torch.equal(eps_hat, case.grad)


def test_an_empty_batch_passes(subject: Subject):
    empty = torch.zeros(0, 3, 4, 4, device=subject.device)
    for eps_hat, b in ((None, 0.0), (empty.clone(), torch.ones(0))):
        options = {"coefficients": (1.0, b, 1.0), "seed": 0, "backend": subject.backend}
        assert ops.diffusion_step_(empty, eps_hat, **options) is empty


@pytest.mark.parametrize("c", [0.3, 0.0])
@pytest.mark.parametrize("guided", [True, False])
def test_the_same_numbers_in_every_split_format_and_thread_count(guided, c):
    """Samples of more than a thread's block and of no whole number of them."""
    case = images((5, 3, 70, 71), "contiguous", torch.float32, "cpu")
    eps_hat = case.grad if guided else None
    options = {"coefficients": (0.9, 0.1 if guided else 0.0, c), "seed": 9, "step": 4}
    whole = ops.diffusion_step_(case.adv.clone(), eps_hat, **options)
    assert torch.equal(whole, ops.diffusion_step_(case.adv.clone(), eps_hat, backend="reference", **options))
    for part in (slice(3, 5), slice(1, 2)):
        ids = torch.arange(5)[part]
        some = None if eps_hat is None else eps_hat[part]
        assert torch.equal(whole[part], ops.diffusion_step_(case.adv[part].clone(), some, sample_ids=ids, **options))
    for kind in ("channels_last", "transposed"):
        assert torch.equal(ops.diffusion_step_(case.fresh(kind), eps_hat, **options), whole)
    flat = None if eps_hat is None else eps_hat.flatten(1)
    assert torch.equal(ops.diffusion_step_(case.adv.flatten(1).clone(), flat, **options), whole.flatten(1))
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            assert torch.equal(ops.diffusion_step_(case.adv.clone(), eps_hat, **options), whole)
    finally:
        torch.set_num_threads(threads)


def test_draws_are_standard_normal():
    """Moments and the distribution, each within five deviations of what chance gives."""
    z = alone((8, 1, 256, 256), seed=11, step=3).double().flatten(1)
    count = z.shape[1]
    assert (z.mean(1).abs() * math.sqrt(count)).max() < 5
    assert ((z.square().mean(1) - 1).abs() * math.sqrt(count / 2)).max() < 5
    assert ((z**3).mean(1).abs() * math.sqrt(count / 15)).max() < 5
    assert (((z**4).mean(1) - 3).abs() * math.sqrt(count / 96)).max() < 5
    ordered = z.flatten().sort().values
    at = torch.special.ndtr(ordered)
    steps = torch.arange(1, len(at) + 1) / len(at)
    assert (at - steps).abs().max() * math.sqrt(len(at)) < 2, "Kolmogorov-Smirnov: 1e-3 of all draws are beyond"


def test_draws_of_samples_steps_seeds_and_other_ops_are_independent():
    """Correlations, in deviations of chance; steps whose numbers differ in every byte."""
    shape, options = (4, 1, 128, 128), {"seed": 11}
    rows = [alone(shape, step=step, **options).flatten(1) for step in (0, 1, 2, 255, 256, 2**16, 2**24 - 1)]
    rows += [alone(shape, seed=12).flatten(1), alone(shape, seed=11 + 2**32).flatten(1)]
    rows += [ops.typical_noise(shape, sigma=1.0, typicality=None, seed=11).flatten(1)]
    z = torch.cat(rows).double()
    found = z @ z.T / math.sqrt(z.shape[1])
    found.fill_diagonal_(0.0)
    assert found.abs().max() < 6
    neighbours = (z[:, 1:] * z[:, :-1]).sum(1) / math.sqrt(z.shape[1])
    assert neighbours.abs().max() < 5


def test_ancestral_sampling_of_a_gaussian_has_its_variance():
    """x_0 ~ N(0, s^2): the noise that is expected in x_t is linear in x_t, so the variance of each step has a recursion
    of its own (DDPM, Algorithm 2, with the larger variance). Draws that repeat from step to step miss it by far."""
    spread, beta = 0.5, np.linspace(1e-3, 0.2, 30)
    bar = np.cumprod(1 - beta)
    x = ops.diffusion_step_(torch.zeros(4, 40000), None, coefficients=(0.0, 0, 1.0), seed=6, step=len(beta))
    variance = 1.0
    for t in reversed(range(len(beta))):
        gain = math.sqrt(1 - bar[t]) / (bar[t] * spread**2 + 1 - bar[t])  # E[noise | x_t] / x_t
        a, b = 1 / math.sqrt(1 - beta[t]), -beta[t] / math.sqrt((1 - beta[t]) * (1 - bar[t]))
        c = math.sqrt(beta[t]) if t else 0.0
        ops.diffusion_step_(x, gain * x, coefficients=(a, b, c), seed=6, step=t)
        variance = (a + b * gain) ** 2 * variance + c**2
    assert variance == pytest.approx(spread**2, rel=0.1), "the recursion itself comes to the data's variance"
    assert float(x.double().var()) == pytest.approx(variance, rel=6 * math.sqrt(2 / x.numel()))


@settings(max_examples=60, deadline=None)
@given(
    coefficients=st.tuples(*[st.floats(-1e3, 1e3)] * 3),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**64 - 1),
    step=st.integers(0, 2**24 - 1),
)
def test_any_coefficients(coefficients, dtype, seed, step):
    case = images((2, 1, 3, 37), "contiguous", dtype, "cpu")
    want = expected(case.adv, case.clean, alone((2, 1, 3, 37), seed=seed, step=step), coefficients)
    got = ops.diffusion_step_(case.adv.clone(), case.clean, coefficients=coefficients, seed=seed, step=step)
    assert same(got, want)


def compiled(x, eps_hat, b):
    ops.diffusion_step_(x, None, coefficients=(0.9, 0, 0.4), seed=2**63 + 1, step=7)
    ops.diffusion_step_(x, eps_hat * 2, coefficients=(1.1, b, 0.1), seed=1)
    return x + 1


@pytest.mark.parametrize("b", [-0.1, torch.tensor([-0.1, 0.2])])
def test_a_compiled_function_traces_through(b):
    case = images((2, 1, 16, 17), "contiguous", torch.float32, "cpu")
    x, again = case.adv.clone(), case.adv.clone()
    want = compiled(x, case.grad, b)
    assert torch.equal(torch.compile(compiled, backend="aot_eager", fullgraph=True)(again, case.grad, b), want)
    assert torch.equal(x, again)


def test_the_custom_op_passes_torchs_own_checks():
    op, x = torch.ops.fastattack.diffusion_step_, torch.rand(2, 3, 4)
    for eps_hat, b in ((None, (0.0, None)), (torch.rand(2, 3, 4), (None, torch.ones(2)))):
        given = (x.clone(), eps_hat, 0.9, None, *b, 0.1, None, "7", 3, None, "auto")
        torch.library.opcheck(op, given, test_utils=("test_schema", "test_faketensor"))


X, E = torch.rand(2, 3, 4), torch.rand(2, 3, 4)
BAD = [
    ({"coefficients": (1.0, 0.1)}, TypeError, r"coefficients: wanted \(a, b, c\).* got \(1.0, 0.1\)"),
    ({"coefficients": 0.5}, TypeError, r"coefficients: wanted \(a, b, c\).* got 0.5"),
    ({"coefficients": (NAN, 0.1, 1.0)}, ValueError, r"coefficients\[0\]: .* got nan"),
    ({"coefficients": (1.0, INF, 1.0)}, ValueError, r"coefficients\[1\]: wanted finite numbers.* got inf"),
    (
        {"coefficients": (1.0, 0.1, -1e39)},
        ValueError,
        r"coefficients\[2\]: wanted finite numbers, at most 3.4.* got 1e",
    ),
    (
        {"coefficients": (1.0, 0.1, torch.tensor([0.1, INF]))},
        ValueError,
        r"coefficients\[2\]: wanted finite .* got inf",
    ),
    (
        {"coefficients": (torch.tensor([0.1, NAN]), 0.1, 0.1)},
        ValueError,
        r"coefficients\[0\]: .* got a smallest of nan",
    ),
    ({"coefficients": (torch.ones(3), 0.1, 0.1)}, ValueError, r"coefficients\[0\]: .*\(2,\).*\(3,\)"),
    ({"coefficients": ("1", 0.1, 0.1)}, TypeError, r"coefficients\[0\]: .* got str"),
    (
        {"eps_hat": None, "coefficients": (1.0, 0.1, 1.0)},
        ValueError,
        r"coefficients\[1\]: wanted the number 0.* got 0.1",
    ),
    (
        {"eps_hat": None, "coefficients": (1.0, torch.zeros(2), 1.0)},
        ValueError,
        r"coefficients\[1\]: wanted the number 0",
    ),
    ({"seed": -1}, ValueError, r"seed: wanted 0 <= seed < 2\*\*64, got -1"),
    ({"seed": 2**64}, ValueError, "seed: wanted"),
    ({"seed": 1.5}, TypeError, "seed: wanted an integer, got float 1.5"),
    ({"step": -1}, ValueError, r"step: wanted 0 <= step < 2\*\*24, got -1"),
    ({"step": 2**24}, ValueError, r"step: wanted .* got 16777216"),
    ({"step": True}, TypeError, "step: wanted an integer, got bool"),
    ({"sample_ids": torch.arange(3)}, ValueError, r"sample_ids: wanted 2 integers, got shape \(3,\)"),
    ({"sample_ids": torch.rand(2)}, ValueError, "sample_ids: wanted 2 integers.*float32"),
    ({"x": torch.zeros(2, 3, 4, dtype=torch.uint8)}, TypeError, "x: wanted float32.* got uint8"),
    ({"x": [1.0]}, TypeError, "x: wanted a tensor"),
    (
        {"x": torch.zeros(1, 1).expand(2, 2**34), "eps_hat": None, "coefficients": (1, 0, 1)},
        ValueError,
        r"x: .* 2\*\*34",
    ),
    ({"x": torch.zeros(1, 3, 4).expand(2, 3, 4)}, ValueError, "x: wanted memory of its own"),
    ({"x": X.clone().requires_grad_()}, ValueError, "x: requires grad"),
    ({"eps_hat": E[:1]}, ValueError, r"eps_hat: wanted \(2, 3, 4\).* got \(1, 3, 4\)"),
    ({"eps_hat": E.double()}, ValueError, "eps_hat: wanted .*float32.* got .*float64"),
    ({"eps_hat": E.clone().requires_grad_()}, ValueError, "eps_hat: requires grad"),
    ({"backend": "cudnn"}, ValueError, "backend"),
]


@pytest.mark.parametrize(("options", "error", "words"), BAD)
def test_bad_input_is_named_and_nothing_is_written(options, error, words):
    call = {"x": X.clone(), "eps_hat": E, "coefficients": (1.0, 0.1, 0.1), "seed": 0} | options
    x, eps_hat = call.pop("x"), call.pop("eps_hat")
    before = x.detach().clone() if isinstance(x, Tensor) and x.numel() < 100 else None
    with pytest.raises(error, match=words):
        ops.diffusion_step_(x, eps_hat, **call)
    assert before is None or torch.equal(x.detach(), before)


def test_shared_memory_and_autograd():
    x = X.clone()
    with pytest.raises(ValueError, match="eps_hat: shares its memory with x"):
        ops.diffusion_step_(x, x, coefficients=(1.0, 0.1, 0.1), seed=0)
    w, out = torch.ones(4, requires_grad=True), torch.zeros(1, 4)
    loss = (out * w).sum()
    ops.diffusion_step_(out, None, coefficients=(1.0, 0.0, 0.1), seed=0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    with torch.no_grad():
        ops.diffusion_step_(x.requires_grad_(), E.clone().requires_grad_(), coefficients=(1.0, 0.1, 0.1), seed=0)
    with torch.inference_mode():
        ops.diffusion_step_(torch.zeros(1, 4), torch.ones(1, 4), coefficients=(1.0, 0.1, 0.1), seed=0)
