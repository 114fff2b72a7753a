"""preserve_noise_: mean and norm kept, the ball kept to the bit, and the nearest such point found."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastattack import ops
from tests.cases import DTYPES, all_images, as_format, ulp_distance
from tests.subjects import Subject


def noisy_case(shape, eps, attack, seed=0, sigma=25 / 255, dtype=torch.float32):
    """(clean, origin, attacked): attacked sits on the faces of the ball, as after a sign step."""
    g = torch.Generator().manual_seed(seed)
    clean = torch.rand(shape, generator=g)
    noise = sigma * torch.randn(shape, generator=g)
    push = torch.randn(shape, generator=g)
    move = {
        "sign": push.sign() * eps,
        "aligned": noise.sign() * eps,
        "against": -noise.sign() * eps,
        "shift": torch.full(shape, eps),
        "inside": (2 * torch.rand(shape, generator=g) - 1) * eps,
        "correlated": (push + noise / sigma).sign() * eps,
    }[attack]
    origin = clean + noise
    return clean.to(dtype), origin.to(dtype), (origin + move).to(dtype)


ATTACKS = ["sign", "aligned", "against", "shift", "inside", "correlated"]


def errors(adv, origin, clean):
    after, before = ((t.double() - clean.double()).flatten(1) for t in (adv, origin))
    return (after.mean(1) - before.mean(1)).abs().max().item(), (
        after.norm(dim=1) / before.norm(dim=1) - 1
    ).abs().max().item()


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_mean_and_norm_are_kept_inside_the_ball(subject: Subject, norm, attack):
    for eps255 in subject.turns((1, 8, 3, 5), ATTACKS.index(attack) + (norm == "l2")):
        eps = eps255 / 255
        shape = (2, 1, 24, 25) if subject.slow else (3, 1, 64, 65)
        clean, origin, adv = (t.to(subject.device) for t in noisy_case(shape, eps, attack, seed=eps255))
        radius = eps if norm == "linf" else 0.7 * eps * clean[0].numel() ** 0.5
        ops.preserve_noise_(adv, origin, clean, norm=norm, eps=radius, backend=subject.backend)
        shift, ratio = errors(adv, origin, clean)
        assert shift <= 1e-6
        assert ratio <= 2e-6
        delta = adv - origin
        size = delta.abs().max().item() if norm == "linf" else delta.double().flatten(1).norm(dim=1).max().item()
        assert size <= radius


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_backends_agree_with_the_reference(subject: Subject, norm, dtype):
    g = torch.Generator().manual_seed(1)
    for number, (kind, case) in enumerate(all_images(dtype, subject.device)):
        half = subject.name == "triton-interpreted" and dtype is not torch.float32
        if half and (number + DTYPES.index(dtype)) % 2:
            continue  # slow: dozens of launches each
        many = (0.01 + 0.03 * torch.rand(case.adv.shape[0], generator=g)).to(subject.device)
        for eps in (5 / 255, many)[number % 2 :: 2] if subject.name == "triton-interpreted" else (5 / 255, many):
            want, got = case.fresh(kind), case.fresh(kind)
            ops.preserve_noise_(want, case.origin, case.clean, norm=norm, eps=eps, backend="reference")
            assert ops.preserve_noise_(got, case.origin, case.clean, norm=norm, eps=eps, backend=subject.backend) is got
            if dtype is torch.float64 or case.adv[0].numel() < 8:
                # A few pixels: the solve is ill-conditioned, so what counts is checked, not the bits.
                delta = (got.double() - case.origin.double()).reshape(len(got), -1)
                size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
                limit = torch.as_tensor(eps, device=size.device).double()
                assert (size <= limit * (1 + 1e-6)).all(), case.label
                if dtype is torch.float64:
                    assert (got - want).abs().max() < 1e-7, case.label
            else:
                assert ulp_distance(got, want) <= 4, f"{case.label} {eps}"


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_is_the_nearest_point_of_the_set(norm):
    """Karush-Kuhn-Tucker in float64: where no face holds, the result is a t - b with one (a, b) for the sample."""
    eps = 5 / 255
    clean, origin, adv = noisy_case((1, 1, 32, 32), eps, "correlated", dtype=torch.float64)
    radius = eps if norm == "linf" else 100.0
    out = ops.preserve_noise_(adv.clone(), origin, clean, norm=norm, eps=radius)
    z, t = (out - clean).flatten(), (adv - clean).flatten()
    free = ((out - origin).abs() < radius * (1 - 1e-9)).flatten()
    assert free.sum() > 100
    design = torch.stack([t[free], torch.ones_like(t[free])], 1)
    fit = torch.linalg.lstsq(design, z[free, None]).solution
    assert fit[0, 0] > 0
    assert (design @ fit - z[free, None]).abs().max() < 1e-12
    wanted = (fit[0, 0] * t + fit[1, 0])[~free]
    assert (((wanted - z[~free]) * (out - origin).flatten()[~free]) >= -1e-12).all()  # held faces pull outwards


def test_l2_cap_is_the_nearest_point():
    """No random point of the set (same mean, same norm, inside the ball) is nearer than the result."""
    clean, origin, _ = noisy_case((1, 1, 4, 4), 0.1, "sign", dtype=torch.float64)
    g = torch.Generator().manual_seed(5)
    adv = origin + 0.2 * torch.randn(origin.shape, generator=g, dtype=torch.float64)
    eps = 0.1
    out = ops.preserve_noise_(adv.clone(), origin, clean, norm="l2", eps=eps)
    n, t = (origin - clean).flatten(), (adv - clean).flatten()
    u = n - n.mean()
    best = ((out - adv) ** 2).sum().item()
    for _ in range(2000):
        w = u + 0.05 * torch.randn(16, generator=g, dtype=torch.float64)
        w = w - w.mean()
        w = w * u.norm() / w.norm()
        if (w - u).norm() <= eps:
            assert ((w + n.mean() - t) ** 2).sum().item() >= best - 1e-9


def test_the_direction_of_the_attack_survives():
    clean, origin, adv = noisy_case((4, 1, 128, 128), 5 / 255, "sign")
    free = (adv - origin).flatten(1)
    out = ops.preserve_noise_(adv.clone(), origin, clean, norm="linf", eps=5 / 255)
    kept = torch.nn.functional.cosine_similarity((out - origin).flatten(1), free)
    assert kept.min() > 0.9


def test_what_cannot_move_stays(subject: Subject):
    """One pixel, constant noise, eps = 0: the only point of the set is the noise itself."""
    one = torch.tensor([[0.5]], device=subject.device)
    for norm in ("linf", "l2"):
        adv = ops.preserve_noise_(one + 0.05, one, one - 0.1, norm=norm, eps=0.1, backend=subject.backend)
        assert (adv - one).abs().max() <= 1e-6
        clean, origin, moved = (t.to(subject.device) for t in noisy_case((1, 1, 8, 8), 0.02, "sign"))
        out = ops.preserve_noise_(moved.clone(), origin, clean, norm=norm, eps=0.0, backend=subject.backend)
        assert torch.equal(out, origin)
        level = clean + 0.25
        out = ops.preserve_noise_(level + 0.01 * moved, level, clean, norm=norm, eps=0.02, backend=subject.backend)
        assert (out - level).abs().max() <= 0.02
        assert errors(out, level, clean)[1] < 1e-4


def test_an_attack_that_cancels_the_noise_is_no_nan(subject: Subject):
    origin = torch.randn(2, 64, generator=torch.Generator().manual_seed(0)).to(subject.device)
    clean, adv = torch.zeros_like(origin), 1e-20 * origin.flip(1)
    ops.preserve_noise_(adv, origin, clean, norm="linf", eps=0.1, backend=subject.backend)
    assert (adv - origin).abs().max().item() <= 0.1
    assert errors(adv, origin, clean)[1] <= 1e-4


def test_a_nan_is_not_hidden(subject: Subject):
    for norm in ("linf", "l2"):
        clean, origin, adv = (t.to(subject.device) for t in noisy_case((2, 1, 8, 8), 0.02, "sign"))
        adv[1, 0, 2, 3] = float("nan")
        ops.preserve_noise_(adv, origin, clean, norm=norm, eps=0.02, backend=subject.backend)
        assert adv[1].isnan().any()
        assert not adv[0].isnan().any()


@settings(max_examples=80, deadline=None)
@given(
    side=st.integers(1, 12), eps=st.floats(0, 0.2), attack=st.sampled_from(ATTACKS),
    norm=st.sampled_from(["linf", "l2"]), seed=st.integers(0, 9999), far=st.floats(0, 100),
    kind=st.sampled_from(["contiguous", "strided", "channels_last"]),
)  # fmt: skip
def test_whatever_comes_the_set_is_not_left(side, eps, attack, norm, seed, far, kind):
    clean, origin, adv = noisy_case((2, 1, side, side), max(eps, 1e-3), attack, seed)
    adv = origin + far * (adv - origin)
    adv, origin, clean = (as_format(t, kind) for t in (adv, origin, clean))
    out = ops.preserve_noise_(adv.clone(), origin, clean, norm=norm, eps=eps)
    delta = (out - origin).flatten(1)
    size = delta.abs().max().item() if norm == "linf" else delta.double().norm(dim=1).max().item()
    assert size <= eps * (1 + 1e-6)
    shift, ratio = errors(out, origin, clean)
    assert shift <= 1e-5
    assert ratio <= 1e-4
