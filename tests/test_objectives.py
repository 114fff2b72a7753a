"""Objectives on images: values against NumPy in float64, gradients against differences, and the contract of all."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

import fastattack as fa
from fastattack import objectives
from fastattack.objectives import Scheduled

IMAGES = {
    "mse": objectives.mse,
    "mae": objectives.mae,
    "charbonnier": objectives.charbonnier(epsilon=0.05),
    "psnr": objectives.psnr(),
    "ssim": objectives.ssim(),
    "ms_ssim": objectives.ms_ssim(scales=1),
    "cospgd": objectives.cospgd(),
    "deviation": objectives.deviation,
    "features": objectives.features(nn.AvgPool2d(2)),
}
LABELS = {
    "cross_entropy": objectives.cross_entropy,
    "cw_margin": objectives.cw_margin(),
    "dlr": objectives.dlr,
    "dlr_targeted": objectives.dlr_targeted,
    "segpgd": objectives.segpgd(weight=0.25),
    "cospgd_labels": objectives.cospgd(),
}
ALL = IMAGES | LABELS


def made(name: str, batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """An output in float64 whose values float16 holds, and a target."""
    g = torch.Generator().manual_seed(7)
    if name in IMAGES:
        shape = (batch, 3, 12, 13)
        output, target = (torch.rand(shape, generator=g).half().double() for _ in range(2))
        return output, target
    output = torch.randn(batch, 5, 3, 4, generator=g).mul(2).half().double()
    labels = torch.randint(0, 5, (batch, 2, 3, 4) if name == "dlr_targeted" else (batch, 3, 4), generator=g)
    return output, labels


def images(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_one_loss_a_sample_in_float32_at_least(name, dtype):
    output, target = made(name)
    output = output.to(dtype).requires_grad_(True)
    target = target.to(dtype) if target.is_floating_point() else target
    loss = ALL[name](output, target)
    assert loss.shape == (3,)
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    wide = target.double() if target.is_floating_point() else target
    torch.testing.assert_close(loss.double(), ALL[name](output.double(), wide), rtol=2e-5, atol=2e-6)
    (grad,) = torch.autograd.grad(loss.sum(), output)
    assert grad.dtype == dtype
    assert grad.isfinite().all()
    assert (grad.flatten(1) != 0).any(1).all()


@pytest.mark.parametrize("name", ALL)
def test_samples_do_not_meet(name):
    output, target = made(name)
    together = ALL[name](output, target)
    alone = torch.cat([ALL[name](output[i : i + 1], target[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-14)
    moved = output.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ALL[name](moved, target), together, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", [name for name in ALL if not name.startswith("cospgd")])
def test_gradients_against_differences(name):
    output, target = made(name, batch=2)
    if name in IMAGES:
        output, target = output[:, :1, :, :12], target[:, :1, :, :12]
    output = output.clone()
    assert torch.autograd.gradcheck(lambda x: ALL[name](x, target), output.requires_grad_(True))


@pytest.mark.parametrize("name", ALL)
def test_nan_stays_nan_in_its_sample(name):
    output, target = made(name)
    output[1, 2] = math.nan
    assert ALL[name](output, target).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("name", ALL)
def test_an_attack_climbs_and_a_targeted_one_goes_down(name):
    """Through the engine, in micro-batches, on a model that passes its input on with a twist."""
    x, target = made(name)
    x, target = x.float(), target.float() if target.is_floating_point() else target

    def model(v):
        return 1.1 * v + 0.01

    plain = {"cospgd": objectives.mse, "cospgd_labels": objectives.cross_entropy, "segpgd": objectives.cross_entropy}
    judge = plain.get(name, ALL[name])  # losses that weigh positions may fall on the way
    before = judge(model(x), target)
    for targeted, sign in ((False, 1), (True, -1)):
        objective = replace(ALL[name], targeted=targeted) if hasattr(ALL[name], "targeted") else ALL[name]
        keep = "last" if name in plain else "best"
        options = {"random_start": False, "targeted": targeted, "keep": keep, "max_batch": 2}
        adv = fa.PGD(model, objective=objective, eps=0.02, steps=4, **options)(x, target)
        assert (sign * (judge(model(adv), target) - before) > 0).all(), targeted


@pytest.mark.parametrize("name", [name for name in IMAGES if name != "cospgd"])
def test_errors_of_images(name):
    output, target = made(name)
    with pytest.raises(ValueError, match=r"model: wanted an output of the target's shape \(3, 3, 12, 12\)"):
        IMAGES[name](output, target[..., :12])
    with pytest.raises(TypeError, match="model: wanted a tensor"):
        IMAGES[name]([output], target)
    with pytest.raises(TypeError, match="target: wanted a tensor"):
        IMAGES[name](output, None)


@pytest.mark.parametrize("shape", [(4, 10), (2, 1, 5, 7), (3, 3, 33, 17), (1, 1, 1, 1)])
def test_pixels_against_numpy(shape):
    a, b = images(1, *shape) * 3 - 1, images(2, *shape)
    d = (a.numpy() - b.numpy()).reshape(shape[0], -1)
    near = {"rtol": 1e-12}
    np.testing.assert_allclose(objectives.mse(a, b), (d**2).mean(1), **near)
    np.testing.assert_allclose(objectives.mae(a, b), np.abs(d).mean(1), **near)
    np.testing.assert_allclose(objectives.charbonnier(epsilon=0.3)(a, b), np.sqrt(d**2 + 0.09).mean(1), **near)
    np.testing.assert_allclose(objectives.charbonnier()(a, b), np.sqrt(d**2 + 1e-6).mean(1), **near)
    for peak in (1.0, 255):
        want = -10 * np.log10(peak**2 / (d**2).mean(1))
        np.testing.assert_allclose(objectives.psnr(data_range=peak, limit=200)(a, b), want, atol=1e-9)
    assert objectives.mse(a[:0], b[:0]).shape == (0,)


def test_equal_images_have_finite_losses_and_gradients():
    for dtype in (torch.float32, torch.float64):
        x = images(3, 2, 1, 12, 12).to(dtype)
        x = torch.cat((x, torch.zeros(1, 1, 12, 12, dtype=dtype)))
        want = {"psnr": -100.0, "charbonnier": 0.05}
        for name in ("mse", "mae", "charbonnier", "psnr", "ssim", "ms_ssim", "deviation", "features"):
            y = x.clone().requires_grad_(True)
            loss = IMAGES[name](y, x)
            torch.testing.assert_close(loss, torch.full_like(loss, want.get(name, 0.0)), rtol=1e-5, atol=1e-6)
            (grad,) = torch.autograd.grad(loss.sum(), y)
            assert grad.abs().max() < 1e-5, name
        for objective in (objectives.psnr(), objectives.charbonnier(epsilon=1e-30)):
            y = (x + 1e-6).requires_grad_(True)  # and beside equality a slope to climb
            (grad,) = torch.autograd.grad(objective(y, x).sum(), y)
            assert (grad > 0).any()
            assert grad.isfinite().all()
            y = x.clone().requires_grad_(True)
            assert (torch.autograd.grad(objective(y, x).sum(), y)[0] == 0).all()


def test_psnr_near_its_limit():
    a, b = torch.zeros(1, 4, dtype=torch.float64), torch.full((1, 4), 1e-5, dtype=torch.float64)
    assert objectives.psnr()(a, b).item() == pytest.approx(-100 + 10 * math.log10(2), abs=1e-12)
    assert objectives.psnr()(a, 1e-2 + b * 0).item() == pytest.approx(-40, abs=5e-6)


def ssim_of(a: np.ndarray, b: np.ndarray, data_range: float, k1: float, k2: float) -> float:
    """One channel as scikit-image computes it: reflected borders, then cropped by half a window."""

    def mean(t):
        return ndimage.gaussian_filter(t, 1.5, truncate=3.5)

    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma * ma, mean(b * b) - mb * mb, mean(a * b) - ma * mb
    c1, c2 = (k1 * data_range) ** 2, (k2 * data_range) ** 2
    s = (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    return s[5:-5, 5:-5].mean()


@pytest.mark.parametrize("shape", [(2, 1, 11, 11), (2, 3, 17, 12), (1, 2, 11, 40)])
@pytest.mark.parametrize(("data_range", "k1", "k2"), [(1.0, 0.01, 0.03), (255.0, 0.02, 0.05)])
def test_ssim_against_scipy(shape, data_range, k1, k2):
    a = images(1, *shape) * data_range
    b = (0.7 * a + 0.3 * images(2, *shape) * data_range) - 0.1 * data_range
    want = [
        1 - np.mean([ssim_of(p, q, data_range, k1, k2) for p, q in zip(x, y, strict=True)])
        for x, y in zip(a.numpy(), b.numpy(), strict=False)
    ]
    objective = objectives.ssim(data_range=data_range, k1=k1, k2=k2)
    np.testing.assert_allclose(objective(a, b), want, rtol=1e-10)
    np.testing.assert_allclose(objective(a.float(), b.float()), want, rtol=2e-5)


def test_ssim_keeps_its_digits_on_smooth_bright_images():
    """Variances of 1e-6 under a mean of 1: squares in float32 would lose them."""
    a = 0.95 + 1e-3 * images(1, 2, 1, 24, 24)
    b = a + 2e-3 * (images(2, 2, 1, 24, 24) - 0.5)
    want = [
        1 - ssim_of(x[0], y[0], 1.0, 0.01, 1e-3)
        for x, y in zip(a.float().double().numpy(), b.float().double().numpy(), strict=True)
    ]
    np.testing.assert_allclose(objectives.ssim(k2=1e-3)(a.float(), b.float()), want, rtol=1e-4)


def test_ssim_against_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    a, b = images(1, 1, 3, 40, 37), images(2, 1, 3, 40, 37)
    want = metrics.structural_similarity(
        a[0].numpy(), b[0].numpy(), gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0,
        channel_axis=0,
    )  # fmt: skip
    assert objectives.ssim()(a, b).item() == pytest.approx(1 - want, rel=1e-10)


def test_ssim_wants_images_of_a_window():
    for shape in ((2, 3, 10, 40), (2, 3, 40, 10), (2, 40, 40)):
        with pytest.raises(ValueError, match=r"model: wanted images \(B, C, H, W\) of 11 x 11"):
            objectives.ssim()(torch.rand(shape), torch.rand(shape))


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (objectives.charbonnier, {"epsilon": 0}), (objectives.charbonnier, {"epsilon": math.nan}),
        (objectives.psnr, {"data_range": -1.0}), (objectives.psnr, {"limit": 1000}), (objectives.ssim, {"k1": 0}),
        (objectives.ssim, {"k2": "a"}), (objectives.ssim, {"data_range": math.inf}),
        (objectives.ms_ssim, {"k1": 0}), (objectives.ms_ssim, {"scales": 0}), (objectives.ms_ssim, {"scales": 6}),
        (objectives.ms_ssim, {"scales": True}), (objectives.ms_ssim, {"scales": 2.5}),
        (objectives.cw_margin, {"kappa": -1}), (objectives.segpgd, {"weight": 1.5}),
        (objectives.segpgd, {"weight": math.nan}), (objectives.cospgd, {"activation": "relu"}),
    ],
)  # fmt: skip
def test_options_that_cannot_be(make, options):
    with pytest.raises(ValueError, match=f"^{next(iter(options))}: wanted"):
        make(**options)


def test_objectives_are_values():
    """Equal where their options are, printed as they are made, pickled for worker processes."""
    assert objectives.ssim() == objectives.ssim(data_range=1.0)
    assert repr(objectives.charbonnier(epsilon=0.5)) == "charbonnier(epsilon=0.5)"
    for objective in (objectives.ssim(k1=0.02), objectives.segpgd(weight=0.5), objectives.dlr, objectives.deviation):
        assert pickle.loads(pickle.dumps(objective)) == objective
    assert "charbonnier(epsilon=0.5)" in repr(fa.PGD(abs, objective=objectives.charbonnier(epsilon=0.5), eps=0.1))
    assert set(objectives.__all__) <= set(dir(fa.objectives))
    assert isinstance(objectives.segpgd(), Scheduled)
    assert not any(isinstance(o, Scheduled) for name, o in ALL.items() if name != "segpgd")


def test_a_class_without_its_brackets_is_named():
    with pytest.raises(TypeError, match=r"objective: .* got the class ssim; write ssim\(\)"):
        fa.PGD(abs, objective=objectives.ssim, eps=0.1)
