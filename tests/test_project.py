"""project_: onto the ball, idempotent, and no point inside moves by a bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastattack import ops
from tests.cases import DTYPES, all_images, images, ulp_distance
from tests.subjects import Subject


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_backends_agree_with_the_reference(subject: Subject, norm, dtype):
    g = torch.Generator().manual_seed(1)
    for number, (kind, case) in enumerate(all_images(dtype, subject.device)):
        many = (0.2 * torch.rand(case.adv.shape[0], generator=g)).to(subject.device)
        mask = (torch.rand(case.adv.shape, generator=g) < 0.6).to(subject.device)
        every = ({"eps": 0.01}, {"eps": 0.05, "bounds": (0.0, 1.0)}, {"eps": many}, {"eps": 0.01, "mask": mask})
        for options in subject.turns(every, number + DTYPES.index(dtype)):
            want, got = case.fresh(kind), case.fresh(kind)
            ops.project_(want, case.origin, norm=norm, backend="reference", **options)
            assert ops.project_(got, case.origin, norm=norm, backend=subject.backend, **options) is got
            if norm == "linf":
                assert torch.equal(got, want), f"{case.label} {options}"
            else:
                assert ulp_distance(got, want) <= 2, f"{case.label} {options}"


def test_l2_against_the_definition(subject: Subject):
    case = images((3, 1, 11, 13), "contiguous", torch.float64, subject.device)
    eps = torch.tensor([0.05, 1.0, 0.0])
    adv = ops.project_(case.adv.clone(), case.origin, norm="l2", eps=eps.to(subject.device), backend=subject.backend)
    delta = (case.adv - case.origin).flatten(1).cpu()
    want = delta * torch.minimum(torch.ones(()), eps.double() / delta.norm(dim=1))[:, None]
    assert torch.allclose((adv - case.origin).flatten(1).cpu(), want, rtol=1e-6, atol=1e-15)
    assert torch.equal(adv[2], case.origin[2])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_inside_stays_to_the_bit_and_twice_is_once(subject: Subject, norm, dtype):
    case = images((2, 3, 9, 11), "contiguous", dtype, subject.device)
    inside = case.adv.clone()
    assert torch.equal(ops.project_(inside, case.origin, norm=norm, eps=10.0, backend=subject.backend), case.adv)
    once = ops.project_(case.adv.clone(), case.origin, norm=norm, eps=0.02, backend=subject.backend)
    assert not torch.equal(once, case.adv)
    twice = ops.project_(once.clone(), case.origin, norm=norm, eps=0.02, backend=subject.backend)
    assert torch.equal(once, twice)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-4, 1e30, 1e38])
def test_magnitudes_at_the_ends_of_float32(subject: Subject, norm, scale):
    delta = torch.tensor([[3.0, -4.0, 0.0]], dtype=torch.float64) * scale / 5
    origin = torch.zeros(1, 3, device=subject.device)
    adv = delta.float().to(subject.device)
    ops.project_(adv, origin, norm=norm, eps=float(scale / 2), backend=subject.backend)
    want = delta / 2 if norm == "l2" else delta.clamp(-scale / 2, scale / 2)
    assert torch.allclose(adv.cpu().double() / scale, want / scale, atol=2e-3 if scale < 1e-37 else 1e-6)


@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1e170, 1e300])
def test_float64_squares_do_not_overflow(subject: Subject, scale):
    delta = torch.tensor([[3.0, -4.0, 0.0]], dtype=torch.float64) * scale
    origin = torch.zeros(1, 3, dtype=torch.float64, device=subject.device)
    adv = ops.project_(delta.to(subject.device, copy=True), origin, norm="l2", eps=scale, backend=subject.backend)
    assert torch.allclose(adv.cpu() / scale, delta / scale / 5, rtol=1e-6)


def test_near_the_radius_inside_is_inside(subject: Subject):
    """A constant |delta|, as a sign step leaves it: sums in float32 would err on one side for the whole sample."""
    for k in range(3 if subject.slow else 60):
        value = 0.01 * (1 + 0.013 * k)
        origin = torch.zeros(1, 3000, device=subject.device)
        delta = torch.full((1, 3000), value, device=subject.device)
        length = delta.double().norm().item()
        inside = ops.project_(delta.clone(), origin, norm="l2", eps=length * (1 + 5e-8), backend=subject.backend)
        assert torch.equal(inside, delta)
        once = ops.project_(delta.clone(), origin, norm="l2", eps=length * (1 - 2e-7), backend=subject.backend)
        assert once.double().norm().item() <= length * (1 - 2e-7)
        assert torch.equal(once, ops.project_(once.clone(), origin, norm="l2", eps=length * (1 - 2e-7)))


def test_nan_is_not_hidden(subject: Subject):
    for norm in ("linf", "l2"):
        case = images((2, 1, 5, 5), "contiguous", torch.float32, subject.device)
        adv = case.adv.clone()
        adv[1, 0, 2, 2] = float("nan")
        ops.project_(adv, case.origin, norm=norm, eps=0.01, bounds=(0.0, 1.0), backend=subject.backend)
        assert adv[1, 0, 2, 2].isnan()
        assert not adv[0].isnan().any()


@settings(max_examples=60, deadline=None)
@given(
    eps=st.floats(0, 3, width=32), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 999),
    norm=st.sampled_from(["linf", "l2"]), scale=st.sampled_from([1e-4, 1.0, 200.0]),
)  # fmt: skip
def test_always_inside_and_idempotent(eps, dtype, seed, norm, scale):
    case = images((2, 1, 5, 7), "contiguous", dtype, "cpu", seed)
    origin = case.origin * scale
    adv = ops.project_(case.adv * scale, origin, norm=norm, eps=eps)
    real = torch.float64 if dtype is torch.float64 else torch.float32
    delta = (adv.to(real) - origin.to(real)).flatten(1)
    if norm == "linf":
        assert delta.abs().max().item() <= eps
    else:
        assert delta.double().norm(dim=1).max().item() <= eps * (1 + 1e-6)
    assert torch.equal(adv, ops.project_(adv.clone(), origin, norm=norm, eps=eps))
