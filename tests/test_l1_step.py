"""l1_step_: which entries move is NumPy's partition, and where they end is the projection of the step."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastattack import ops
from tests.cases import DTYPES, Images, all_images, as_format, images, ulp_distance
from tests.subjects import Subject


def direction(grad: np.ndarray, keep: float) -> np.ndarray:
    """sign / count on the k largest of a sample, by np.partition in float64."""
    g = grad.astype(np.float64)
    size = np.abs(g).ravel()
    k = max(1, math.ceil(keep * size.size))
    least = np.partition(size, size.size - k)[size.size - k]
    moves = (np.abs(g) >= least) & (g != 0)
    return np.where(moves, np.sign(g), 0.0) / max(1, moves.sum())


def step(adv, grad, origin, subject: Subject, **options):
    options = {"eps": 1e4, "step": 1.0} | options
    return ops.l1_step_(adv.clone(), grad, origin, backend=subject.backend, **options)


FAR = 1e4


def cases(dtype: torch.dtype, device: str) -> Iterator[tuple[str, Images, list[dict[str, Any]]]]:
    g = torch.Generator().manual_seed(1)
    for kind, case in all_images(dtype, device):
        batch = case.adv.shape[0]
        many, some = ((0.5 * torch.rand(batch, generator=g) + 1e-3).to(device) for _ in range(2))
        mask = (torch.rand(case.adv.shape, generator=g) < 0.6).to(device)
        yield kind, case, [
            {"eps": FAR, "step": 0.5}, {"eps": 0.5, "step": 0.1, "bounds": (0.0, 1.0)},
            {"eps": many, "step": some, "keep": some}, {"eps": 0.3, "step": -0.1, "mask": mask, "keep": 1e-9},
            {"eps": many, "step": 1.0, "keep": 1.0, "mask": mask},
        ]  # fmt: skip


@functools.cache
def reference(dtype: torch.dtype, device: str) -> list[list[torch.Tensor]]:
    """Once for all backends: it takes as long as half of them."""
    return [
        [ops.l1_step_(case.fresh(kind), case.grad, case.origin, backend="reference", **options) for options in every]
        for kind, case, every in cases(dtype, device)
    ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_backends_agree_with_the_reference(subject: Subject, dtype):
    if subject.name == "reference":
        pytest.skip("it is what the others are compared with")
    wanted = reference(dtype, subject.device)
    for number, (kind, case, every) in enumerate(cases(dtype, subject.device)):
        pairs = list(zip(every, wanted[number], strict=True))
        for options, want in subject.few(pairs, number + DTYPES.index(dtype), emulated=2):
            got = case.fresh(kind)
            assert ops.l1_step_(got, case.grad, case.origin, backend=subject.backend, **options) is got
            if options["eps"] is FAR:  # the ball holds nobody back, and no sum decides
                assert torch.equal(got, want), f"{case.label} {options}"
            elif dtype is torch.float64:
                assert (got - want).abs().max() < 1e-9, f"{case.label} {options}"
            else:
                assert ulp_distance(got, want) <= 2, f"{case.label} {options}"


def gradients(n: int, kind: str, seed: int) -> np.ndarray:
    g = np.random.default_rng(seed)
    if kind == "ties":
        return g.integers(-3, 4, n) * 0.25
    if kind == "decades":
        return g.choice([-1, 1], n) * 10.0 ** g.uniform(-40, 38, n)
    if kind == "zeros":
        return np.where(g.random(n) < 0.03, g.standard_normal(n), 0.0)
    if kind == "near":  # apart in the last bits alone
        return 1 + np.arange(n) * 2.0**-23
    return g.standard_normal(n)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["normal", "ties", "decades", "zeros", "near"])
def test_the_largest_entries_move(subject: Subject, kind, dtype):
    for n in subject.few((1, 2, 100, 1501 if subject.slow else 3001), 2):
        grad = torch.from_numpy(gradients(n, kind, n)).to(dtype).nan_to_num(0, 0, 0)
        zero = torch.zeros(1, n, dtype=dtype, device=subject.device)
        for keep in subject.few((1e-12, 0.05, 0.31, 1.0), 1):
            got = step(zero, grad[None].to(subject.device), zero.clone(), subject, keep=keep, step=8.0)
            want = torch.from_numpy(8.0 * direction(grad.double().numpy(), keep))
            assert torch.equal(got[0].cpu(), want.to(dtype)), f"{n} {keep}"


def test_ties_all_move_and_zeros_never(subject: Subject):
    zero = torch.zeros(3, 6, device=subject.device)
    grad = torch.tensor([[2.0, -2.0, 2.0, 1.0, 0.0, 0.0], [0.0, -0.0, 0.0, 0.0, 0.0, 0.0], [0, 0, 0, 0, -3.0, 0]])
    got = step(zero, grad.to(subject.device), zero.clone(), subject, keep=1 / 6).cpu()
    third = torch.tensor(1 / 3)
    assert torch.equal(got[0], torch.tensor([third, -third, third, 0, 0, 0]))
    assert torch.equal(got[1], torch.zeros(6))
    assert torch.equal(got[2], torch.tensor([0, 0, 0, 0, -1.0, 0]))
    # Fewer entries than asked for that are not zero: they share the whole step.
    got = step(zero, grad.to(subject.device), zero.clone(), subject, keep=1.0).cpu()
    assert torch.equal(got[0], torch.tensor([0.25, -0.25, 0.25, 0.25, 0, 0]))
    assert torch.equal(got[2], torch.tensor([0, 0, 0, 0, -1.0, 0]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_ends_where_the_projection_of_the_step_does(subject: Subject, dtype):
    case = images((3, 2, 9, 11), "contiguous", dtype, subject.device)
    for bounds in (None, (0.0, 1.0)):
        for size in (0.4, -0.4):
            free = step(case.adv, case.grad, case.origin, subject, keep=0.1, step=size)
            want = ops.project_(free, case.origin, norm="l1", eps=0.8, bounds=bounds, backend=subject.backend)
            got = step(case.adv, case.grad, case.origin, subject, keep=0.1, step=size, eps=0.8, bounds=bounds)
            assert torch.equal(got, want)
            if bounds is None:  # these origins lie outside the bounds by more than the ball
                assert ((got.double() - case.origin.double()).abs().flatten(1).sum(1) <= 0.8 * (1 + 1e-6)).all()


def test_a_negative_step_descends(subject: Subject):
    case = images((2, 1, 5, 5), "contiguous", torch.float64, subject.device)
    up, down = (step(case.adv, case.grad, case.origin, subject, step=s) for s in (0.5, -0.5))
    assert torch.allclose(up - case.adv, case.adv - down, atol=1e-12)
    assert ((up - case.adv) * case.grad).sum() > 0


def test_masked_entries_are_not_chosen(subject: Subject):
    case = images((2, 1, 6, 7), "contiguous", torch.float32, subject.device)
    mask = torch.zeros(1, 1, 6, 7, dtype=torch.bool, device=subject.device)
    mask[..., 2:4, :] = True
    grad = torch.where(mask, case.grad, 1e3)
    grad[0, 0, 0, 0] = float("nan")
    options = {"keep": 0.2, "step": 0.5, "eps": 0.3}
    got = step(case.adv, grad, case.origin, subject, mask=mask, **options)
    inner = [t[:, :, 2:4].contiguous() for t in (case.adv, grad, case.origin)]
    assert torch.equal(got[:, :, 2:4], step(*inner, subject, **options))
    assert torch.equal(torch.where(mask, 0, got), torch.where(mask, 0, case.origin))
    assert torch.equal(step(case.adv, grad, case.origin, subject, mask=mask & False), case.origin)


def test_a_nan_in_the_gradient_makes_the_sample_nan(subject: Subject):
    case = images((2, 1, 5, 5), "contiguous", torch.float32, subject.device)
    for value in (float("nan"), -float("nan")):
        grad = case.grad.clone()
        grad[1, 0, 2, 2] = value
        got = step(case.adv, grad, case.origin, subject, keep=1e-9)
        assert got[1].isnan().all()
        assert not got[0].isnan().any()


def test_an_infinite_gradient_is_the_largest(subject: Subject):
    zero = torch.zeros(1, 4, device=subject.device)
    grad = torch.tensor([[1.0, -float("inf"), 1e38, 0.0]], device=subject.device)
    assert step(zero, grad, zero.clone(), subject, keep=0.25).tolist() == [[0, -1.0, 0, 0]]


def test_the_same_bits_for_any_number_of_threads():
    g = torch.Generator().manual_seed(0)
    origin, grad = torch.rand(2, 3, 300, 301, generator=g), torch.randn(2, 3, 300, 301, generator=g)
    threads = torch.get_num_threads()
    try:
        out = []
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            adv = origin.clone()
            for _ in range(3):
                ops.l1_step_(adv, grad, origin, eps=20.0, step=15.0, bounds=(0.0, 1.0), backend="cpu")
            out.append(adv)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(out[0], out[1])
    assert torch.equal(out[0], out[2])


def test_bad_input_is_named():
    x = torch.zeros(2, 4)
    for keep in (0.0, -0.1, 1.5, float("nan"), torch.tensor([0.5, 1.5])):
        with pytest.raises(ValueError, match="keep: wanted"):
            ops.l1_step_(x.clone(), x.clone(), x, eps=1.0, step=1.0, keep=keep)
    with pytest.raises(TypeError, match="keep"):
        ops.l1_step_(x.clone(), x.clone(), x, eps=1.0, step=1.0, keep="some")
    with pytest.raises(ValueError, match="eps"):
        ops.l1_step_(x.clone(), x.clone(), x, eps=-1.0, step=1.0)
    with pytest.raises(ValueError, match="grad"):
        ops.l1_step_(x.clone(), x[:1].clone(), x, eps=1.0, step=1.0)
    with pytest.raises(ValueError, match="origin: shares its memory"):
        ops.l1_step_(x, x.clone(), x, eps=1.0, step=1.0)
    empty = torch.zeros(0, 4)
    assert ops.l1_step_(empty, empty.clone(), empty.clone(), eps=1.0, step=1.0) is empty


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 60), keep=st.floats(1e-6, 1), seed=st.integers(0, 9999), dtype=st.sampled_from(DTYPES),
    kind=st.sampled_from(["normal", "ties", "zeros"]),
)  # fmt: skip
def test_the_choice_is_numpys(n, keep, seed, dtype, kind):
    grad = torch.from_numpy(gradients(n, kind, seed)).to(dtype)
    zero = torch.zeros(1, n, dtype=dtype)
    got = ops.l1_step_(zero.clone(), as_format(grad[None], "strided"), zero, eps=1e4, step=1.0, keep=keep)
    assert torch.equal(got[0], torch.from_numpy(direction(grad.double().numpy(), keep)).to(dtype))
