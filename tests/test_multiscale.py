"""MS-SSIM, as a metric and as an objective: against NumPy and SciPy in float64, torchmetrics' own, closed forms."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from scipy import ndimage

import fastattack as fa
from fastattack.metrics import ms_ssim, ssim

WEIGHTS = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333]  # table of the paper


def pair(seed: int, shape: tuple[int, ...], noise: float = 0.2) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth images with some texture, and noisy ones."""
    g = np.random.default_rng(seed)
    a = ndimage.gaussian_filter(g.random(shape), (0, 0, 3, 3)) + 0.2 * g.random(shape)
    return torch.from_numpy(a), torch.from_numpy(a + noise * g.standard_normal(shape))


def blurred(t: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(t, 1.5, truncate=3.5)[5:-5, 5:-5]  # 11 taps; what a border touched is cut off


def halved(t: np.ndarray) -> np.ndarray:
    t = t[: len(t) // 2 * 2, : t.shape[1] // 2 * 2]
    return (t[::2, ::2] + t[1::2, ::2] + t[::2, 1::2] + t[1::2, 1::2]) / 4


def by_definition(a: np.ndarray, b: np.ndarray, weights: list[float], data_range: float) -> float:
    """Images (C, H, W): equation 7, with luminance and the rest averaged together at the last scale."""
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    product = 1.0
    for scale, weight in enumerate(weights):
        means = []
        for p, q in zip(a, b, strict=True):
            mp, mq = blurred(p), blurred(q)
            vp, vq, both = blurred(p * p) - mp**2, blurred(q * q) - mq**2, blurred(p * q) - mp * mq
            term = (2 * both + c2) / (vp + vq + c2)
            if scale == len(weights) - 1:
                term = term * (2 * mp * mq + c1) / (mp**2 + mq**2 + c1)
            means.append(term.mean())
        product *= max(np.mean(means), 0) ** weight
        a, b = (np.stack([halved(p) for p in t]) for t in (a, b))
    return float(product)


def expected(a: torch.Tensor, b: torch.Tensor, weights: list[float], data_range: float = 1.0) -> list[float]:
    return [by_definition(p, q, weights, data_range) for p, q in zip(a.numpy(), b.numpy(), strict=True)]


@pytest.mark.parametrize(
    ("shape", "scales", "data_range"),
    [((2, 1, 176, 191), None, 1.0), ((1, 3, 200, 179), 5, 255.0), ((2, 3, 32, 97), 2, 1.0), ((2, 1, 45, 47), 3, 2.0)],
)
def test_against_the_definition(shape, scales, data_range):
    a, b = (data_range * t for t in pair(1, shape))
    weights = WEIGHTS if scales in (None, 5) else [w / sum(WEIGHTS[:scales]) for w in WEIGHTS[:scales]]
    want = expected(a, b, weights, data_range)
    found = ms_ssim(a, b, data_range, scales=scales)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), want, rtol=1e-10)
    objective = fa.objectives.ms_ssim(data_range=data_range, scales=scales)
    np.testing.assert_allclose(1 - objective(a, b).numpy(), want, rtol=1e-10)
    np.testing.assert_allclose(1 - objective(a.float(), b.float()).numpy(), want, rtol=1e-5)


def test_torchmetrics_own_differs_by_the_borders_of_the_last_scale_alone():
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as theirs
    from torchmetrics.functional.image import structural_similarity_index_measure as one_scale

    a, b = pair(2, (2, 3, 48, 56))
    weights = tuple(w / sum(WEIGHTS[:3]) for w in WEIGHTS[:3])
    whole = theirs(a, b, data_range=1.0, betas=weights, reduction="none")
    coarse = [torch.nn.functional.avg_pool2d(t, 4) for t in (a, b)]
    reflected = one_scale(*coarse, data_range=1.0, reduction="none")
    found = ms_ssim(a, b, scales=3)
    torch.testing.assert_close(found, whole * (ssim(*coarse) / reflected) ** weights[-1], rtol=1e-6, atol=0)
    assert (found - whole).abs().max() < 0.03
    assert (found - whole).abs().min() > 1e-4  # so there is a difference to speak of


def test_closed_forms():
    a, b = pair(3, (2, 1, 44, 50))
    torch.testing.assert_close(ms_ssim(a, a, scales=3), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(ms_ssim(a, b, scales=1), ssim(a, b), rtol=1e-12, atol=0)
    p, q = 0.2, 0.7  # constants: all that is left is the luminance of the coarsest scale
    flat = [torch.full((1, 1, 44, 44), v, dtype=torch.float64) for v in (p, q)]
    luminance = (2 * p * q + 1e-4) / (p * p + q * q + 1e-4)
    want = luminance ** (WEIGHTS[2] / sum(WEIGHTS[:3]))
    assert ms_ssim(*flat, scales=3).item() == pytest.approx(want, rel=1e-9)
    assert 1 - fa.objectives.ms_ssim(scales=3)(*flat).item() == pytest.approx(want, rel=1e-9)


def test_samples_are_apart():
    a, b = pair(4, (3, 1, 24, 24))
    together = ms_ssim(a, b, scales=2)
    b[1] = float("nan")
    apart = ms_ssim(a, b, scales=2)
    assert apart[[0, 2]].tolist() == together[[0, 2]].tolist()
    assert apart[1].isnan()
    losses = fa.objectives.ms_ssim(scales=2)(a, b)
    assert losses.isnan().tolist() == [False, True, False]


def test_gradients_against_differences():
    a, b = pair(5, (1, 2, 22, 23))
    objective = fa.objectives.ms_ssim(scales=2)
    a.requires_grad_()
    objective(a, b).sum().backward()
    g = torch.Generator().manual_seed(6)
    for _ in range(3):
        direction = torch.randn(a.shape, generator=g, dtype=torch.float64)
        with torch.no_grad():
            slope = (objective(a + 1e-6 * direction, b) - objective(a - 1e-6 * direction, b)) / 2e-6
        assert (a.grad * direction).sum().item() == pytest.approx(slope.item(), rel=1e-5)


def test_images_turned_about():
    """Contrast terms below 0: the metric is 0, and the objective has finite gradients in float32."""
    a, _ = pair(7, (2, 1, 44, 44))
    for other in (1 - a, a.flip(-1)):
        assert (ms_ssim(a, other, scales=3) >= 0).all()
        moved = a.float().requires_grad_()
        loss = fa.objectives.ms_ssim(scales=3)(moved, other.float())
        loss.sum().backward()
        assert loss.isfinite().all()
        assert moved.grad.isfinite().all()
    assert ms_ssim(a, 1 - a, scales=3).tolist() == [0, 0]
    assert by_definition(a[0].numpy(), 1 - a[0].numpy(), WEIGHTS[:3], 1.0) == 0


def test_the_terms_of_other_scales_keep_their_gradient():
    """The finest scale alone is turned about: a checkerboard, of which means of 2 x 2 know nothing."""
    board = 0.2 * (torch.arange(44)[:, None] + torch.arange(44)).remainder(2)[None, None] - 0.1
    smooth = pair(8, (1, 1, 44, 44))[0].float() * 0.3
    smooth = torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(smooth, 4), scale_factor=4, mode="bilinear")
    a, b = (smooth + board).requires_grad_(), 1.05 * smooth - board
    assert ms_ssim(a, b, scales=3).item() == 0
    fa.objectives.ms_ssim(scales=3)(a, b).sum().backward()
    assert a.grad.abs().max() > 0
    assert a.grad.isfinite().all()


def test_too_small_names_what_is_needed():
    a = torch.rand(2, 1, 32, 96)
    message = r"wanted images \(B, C, H, W\) of 176 x 176 at least .* at 5 scales, got \(2, 1, 32, 96\); scales=2 fits"
    with pytest.raises(ValueError, match=r"^ms_ssim: " + message):
        ms_ssim(a, a)
    with pytest.raises(ValueError, match=r"^model: " + message):
        fa.objectives.ms_ssim()(a, a)
    with pytest.raises(ValueError, match=r"of 44 x 44 at least .* at 3 scales, .*; scales=2 fits$"):
        ms_ssim(a, a, scales=3)
    with pytest.raises(ValueError, match=r"at 1 scale, got \(2, 1, 10, 96\)$"):
        ms_ssim(a[..., :10, :], a[..., :10, :], scales=1)
    assert ms_ssim(torch.rand(1, 1, 175, 176)[..., :44], torch.rand(1, 1, 175, 44), scales=3).shape == (1,)
    with pytest.raises(ValueError, match=r"got .*; scales=4 fits"):
        ms_ssim(torch.rand(1, 1, 175, 176), torch.rand(1, 1, 175, 176))


def test_refuses():
    a = torch.rand(1, 1, 32, 32)
    for scales in (0, 6, True, 2.0, "2"):
        with pytest.raises(ValueError, match=r"^scales: wanted"):
            ms_ssim(a, a, scales=scales)
    with pytest.raises(ValueError, match=r"data_range"):
        ms_ssim(a, a, 0, scales=2)
    with pytest.raises(ValueError, match=r"shapes differ"):
        ms_ssim(a, a[..., 1:], scales=2)


def test_an_attack_climbs_it():
    a, b = (t.float() for t in pair(9, (2, 1, 24, 24), noise=0.05))
    objective = fa.objectives.ms_ssim(scales=2)
    assert pickle.loads(pickle.dumps(objective)) == objective
    net = torch.nn.AvgPool2d(3, 1, 1)
    moved = fa.PGD(net, objective=objective, eps=0.05, steps=3)(b, a)
    assert (ms_ssim(net(moved), a, scales=2) < ms_ssim(net(b), a, scales=2)).all()
