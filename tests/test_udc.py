"""fa.udc.Degradation against float64 NumPy, what it draws, its gradients and its errors; the restorer's files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import fastattack as fa
from fastattack import models


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kernel(*shape: int) -> Tensor:
    """Not symmetric, so that a correlation would be seen."""
    k = images(*shape, seed=7) ** 3
    return k / k.sum((-2, -1), keepdim=True)


def direct(x: np.ndarray, k: np.ndarray) -> np.ndarray:
    """A true convolution of an image (H, W) that goes on in its mirror image, pixel by pixel."""
    down, across = k.shape[0] // 2, k.shape[1] // 2
    wide = np.pad(x, ((down, down), (across, across)), mode="reflect")
    out = np.zeros_like(x)
    for i in range(k.shape[0]):
        for j in range(k.shape[1]):
            out += k[i, j] * wide[2 * down - i :, 2 * across - j :][: x.shape[0], : x.shape[1]]
    return out


def srgb(light: np.ndarray) -> np.ndarray:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)


def srgb_light(image: np.ndarray) -> np.ndarray:
    return np.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("size", [(9, 11), (12, 9), (16, 17)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_linear_camera_is_a_convolution_of_each_channel(size, channels):
    x, k = images(2, 3, *size), kernel(channels, 7, 9)
    found = fa.udc.Degradation(k, tone="linear", shot=0, read=0)(x).numpy()
    for sample in range(2):
        for c in range(3):
            expected = direct(x[sample, c].numpy(), k[c % channels].numpy())
            np.testing.assert_allclose(found[sample, c], expected, atol=1e-12)


def test_light_tone_gain_and_clip_are_those_of_the_formula():
    x, k = images(1, 1, 10, 12), kernel(5, 5)
    x[0, 0, 3:5, 3:8] = 1.0
    found = fa.udc.Degradation(k, gain=1.7, shot=0, read=0)(x)[0, 0].numpy()
    light = 1.7 * direct(srgb_light(x[0, 0].numpy()), k.numpy())
    assert (light > 1).any()
    np.testing.assert_allclose(found, srgb(np.clip(light, 0, 1)), atol=1e-6)


def test_the_high_range_of_the_paper():
    x, k = images(1, 1, 10, 12) * 0.6, kernel(5, 5)
    x[0, 0, 4, 6] = 1.0  # beyond every light: the brightest that the sensor holds
    found = fa.udc.Degradation(k, tone="reinhard", saturation=500.0, shot=0, read=0)(x)[0, 0].numpy()
    pixels = np.minimum(x[0, 0].numpy(), 500 / 500.25)
    light = direct(0.25 * pixels / (1 - pixels), k.numpy())
    np.testing.assert_allclose(found, light / (light + 0.25), atol=1e-9)
    assert (found[2:7, 4:9] > 0.9).sum() > 10 > (x[0, 0, 2:7, 4:9] > 0.9).sum()  # the glare around a lamp


def test_nothing_wraps_around():
    x = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    x[0, 0, 0, 0] = 1.0
    found = fa.udc.Degradation(kernel(7, 7), tone="linear", shot=0, read=0)(x)[0, 0]
    assert found[:4, :4].max() > 0.01
    assert found[4:].abs().max() < 1e-15
    assert found[:, 4:].abs().max() < 1e-15


def test_the_noise_has_the_variance_of_shot_and_read():
    light = torch.tensor([0.05, 0.3, 0.8], dtype=torch.float64).view(3, 1, 1, 1).expand(3, 1, 128, 128).contiguous()
    one = torch.ones(1, 1)
    camera = fa.udc.Degradation(one, tone="linear", shot=4e-4, read=3e-3, gain=0.9)
    noise = camera(light) - 0.9 * light
    for k in range(3):
        variance = 4e-4 * 0.9 * float(light[k, 0, 0, 0]) + 9e-6
        assert float(noise[k].var()) == pytest.approx(variance, rel=0.05)  # 5.8 standard errors
        assert abs(float(noise[k].mean())) < 5 * (variance / 128**2) ** 0.5


def test_the_noise_belongs_to_names_and_torchs_generators_stay():
    x, camera = images(4, 1, 8, 8).float(), fa.udc.Degradation(kernel(3, 3), seed=5)
    before = torch.get_rng_state()
    ids = torch.tensor([4, 1, 9, 2])
    whole = camera(x, ids, 3)
    assert torch.allclose(camera(x[1:3], ids[1:3], 3), whole[1:3], atol=1e-6)
    assert torch.equal(camera(x), camera(x, torch.arange(4), 0))
    for other in (camera(x, ids, 4), camera(x, ids + 1, 3), fa.udc.Degradation(kernel(3, 3), seed=6)(x, ids, 3)):
        assert (other - whole).abs().mean() > 1e-3
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("options", [{}, {"tone": "reinhard", "saturation": 9.0}, {"tone": "linear", "gain": 1.1}])
def test_the_gradient_is_that_of_finite_differences(options):
    x = (0.1 + 0.7 * images(1, 1, 4, 5)).requires_grad_()
    camera = fa.udc.Degradation(kernel(3, 5), **options)
    assert torch.autograd.gradcheck(lambda t: camera(t), (x,), atol=1e-6)


def test_black_pixels_have_a_gradient():
    x = torch.zeros(1, 1, 8, 8, requires_grad=True)
    fa.udc.Degradation(kernel(3, 3), shot=1e-3, read=0)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("tone", "slope"), [("srgb", 0.9 ** (1 / 2.4)), ("linear", 0.9)])
def test_white_pixels_have_the_gradient_of_their_neighbours(dtype, tone, slope):
    """d phi(0.9 phi^-1(x)) / dx at 1, where no more than the scene's white is cut."""
    x = torch.ones(1, 1, 4, 4, dtype=dtype, requires_grad=True)
    camera = fa.udc.Degradation(torch.ones(1, 1), tone=tone, gain=0.9, shot=0, read=0)
    (found,) = torch.autograd.grad(camera(x).sum(), x)
    assert torch.allclose(found, torch.full_like(found, slope), rtol=1e-4)


@pytest.mark.parametrize("saturation", [1e9, 1e17])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_curve_of_the_paper_is_finite_at_any_saturation(saturation, dtype):
    x = torch.tensor([[[[0.0, 0.5, 1.0, 1.2]]]], dtype=dtype, requires_grad=True)
    out = fa.udc.Degradation(torch.ones(1, 1), tone="reinhard", saturation=saturation, shot=0, read=0)(x)
    (found,) = torch.autograd.grad(out.sum(), x)
    assert out.isfinite().all()
    assert found.isfinite().all()
    assert float(out.detach().max()) <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_black_pixels_without_read_noise_have_no_huge_gradient(dtype):
    """Rounding of the transform leaves 1e-17 or 1e-8 there, and the slope of a square root knows no bound."""
    x = torch.zeros(1, 1, 32, 32, dtype=dtype)
    x[:, :, 4, 4] = 1.0
    x.requires_grad_()
    (found,) = torch.autograd.grad(fa.udc.Degradation(kernel(5, 5), shot=1e-3, read=0)(x).sum(), x)
    # sqrt(shot / dark) / 2 = 16 by a normal of 4, both tone curves 1 at 0; a pixel is spread with a sum of 1
    assert float(found.abs().max()) < 65


def test_the_result_lies_below_the_tone_of_the_saturation():
    x = torch.ones(1, 1, 4, 4, dtype=torch.float64)
    for tone, highest in (("srgb", float(srgb(np.array(2.0)))), ("linear", 2.0), ("reinhard", 2 / 2.25)):
        camera = fa.udc.Degradation(torch.ones(1, 1), tone=tone, saturation=2.0, gain=3.0, shot=0, read=0)
        assert float(camera(x).max()) == pytest.approx(highest)


def test_types_autocast_and_an_empty_batch():
    x, camera = images(2, 1, 8, 8).float(), fa.udc.Degradation(kernel(3, 3))
    expected = camera(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(camera(x), expected)
    half = camera(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), camera(x.bfloat16().float()), atol=5e-3)
    assert camera(x[:0]).shape == (0, 1, 8, 8)


def test_an_attack_goes_through_it_and_names_its_samples():
    x = images(3, 1, 8, 8).float()
    seen: list[tuple[Tensor | None, int | None]] = []

    class Watched(fa.udc.Degradation):
        def _noise(self, light: Tensor, ids: Tensor | None, draw: int) -> Tensor | float:
            seen.append((ids, draw))
            return super()._noise(light, ids, draw)

    model = nn.Sequential(Watched(kernel(3, 3)), nn.Conv2d(1, 1, 3, padding=1))
    attack = fa.PGD(model, eps=4 / 255, steps=3, bounds=(0, 1))
    adversarial = attack(x, x, sample_ids=torch.tensor([7, 8, 9]))
    with torch.no_grad():
        assert fa.objectives.mse(model(adversarial), x).mean() > fa.objectives.mse(model(x), x).mean()
    assert all(ids is not None and ids.tolist() == [7, 8, 9] for ids, _ in seen[:3])


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), "x: wanted a float tensor"),
        (torch.zeros(1, 8, 8), r"x: wanted images \(B, 3, H, W\)"),
        (torch.zeros(1, 1, 8, 8), r"x: wanted images \(B, 3, H, W\)"),
        (torch.zeros(1, 3, 8, 4), "x: wanted images of at least 5 x 5"),
    ],
)
def test_images_that_do_not_fit_are_named(bad, word):
    with pytest.raises((TypeError, ValueError), match=f"^{word}"):
        fa.udc.Degradation(kernel(3, 5, 5))(bad)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"gain": 0.0}, "gain"), ({"gain": float("inf")}, "gain"), ({"saturation": -1.0}, "saturation"),
        ({"shot": -1e-3}, "shot"), ({"read": float("nan")}, "read"), ({"read": "much"}, "read"),
        ({"tone": "filmic"}, "tone"), ({"seed": -1}, "seed"), ({"seed": 1.5}, "seed"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_named(options, word):
    with pytest.raises((TypeError, ValueError), match=f"^{word}: wanted"):
        fa.udc.Degradation(kernel(3, 3), **options)


# -- the restorer ------------------------------------------------------------------------------------------------------


def test_the_restorer_begins_as_the_identity_takes_any_size_and_is_small():
    state = torch.get_rng_state()
    model = models.new_udc_unet(seed=3)
    assert torch.equal(state, torch.get_rng_state())
    x = images(1, 1, 21, 30).float()
    assert torch.equal(model(x), x)
    assert sum(p.numel() for p in model.parameters()) < 1_500_000
    assert torch.equal(model.enter.weight, models.new_udc_unet(seed=3).enter.weight)
    assert not torch.equal(model.enter.weight, models.new_udc_unet(seed=4).enter.weight)
    for p in model.parameters():
        nn.init.normal_(p, std=0.05)
    assert model(images(2, 1, 1, 5).float()).shape == (2, 1, 1, 5)
    assert not torch.equal(model(x), x)


@pytest.mark.parametrize(("channels", "widths"), [(1, (8, 16)), (3, (4, 8, 8))])
def test_the_restorer_comes_back_from_its_file(channels, widths, tmp_path):
    made = models.UDCUNet(channels, widths=widths)
    for p in made.parameters():
        nn.init.normal_(p, std=0.1)
    path = tmp_path / "restorer.safetensors"
    save_file(made.state_dict(), path)
    loaded = models.load("udc_unet", weights=path)
    opened = models.open_model(models.parse_spec(f"udc_unet:{path}"), sigma=None)
    x = images(1, channels, 13, 10).float()
    with torch.no_grad():
        assert torch.equal(loaded(x), made(x))
        assert torch.equal(opened.model(x), made(x))
    assert opened.channels == channels
    with pytest.raises(ValueError, match="not weights of dncnn"):
        models.load("dncnn", weights=path)
    damaged = made.state_dict()
    del damaged["after.0.conv2.bias"]
    save_file(damaged, path)
    with pytest.raises(ValueError, match=r"wanted after\.0\.conv2\.bias .*missing"):
        models.load("udc_unet", weights=path)


@pytest.mark.parametrize("widths", [(4.5,), (), (8, 0), (True,), ("8",)])
def test_widths_that_cannot_be_are_named(widths):
    with pytest.raises(ValueError, match=r"^widths: wanted whole numbers"):
        models.UDCUNet(widths=widths)


def test_a_file_that_lacks_a_level_is_named(tmp_path):
    state = models.UDCUNet(widths=(4, 8, 8)).state_dict()
    for key in [key for key in state if key.startswith("before.1.")]:
        del state[key]
    save_file(state, tmp_path / "k.safetensors")
    with pytest.raises(ValueError, match=r"not weights of udc_unet: wanted .*before\.1"):
        models.load("udc_unet", weights=tmp_path / "k.safetensors")


def test_first_weights_seed_no_generator_of_a_device(monkeypatch):
    """torch.manual_seed would seed all, of which only the CPU's is put back."""
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("seeded every GPU"))
    models.new_udc_unet(widths=(4,), seed=1)


def test_another_models_file_is_no_restorer(tmp_path):
    save_file(models.DnCNN(1, depth=3, features=4).state_dict(), tmp_path / "d.safetensors")
    with pytest.raises(ValueError, match=r"not weights of udc_unet: wanted enter\.weight"):
        models.load("udc_unet", weights=tmp_path / "d.safetensors")
    with pytest.raises(ValueError, match="no official weights are listed for 'udc_unet'"):
        models.load("udc_unet")
