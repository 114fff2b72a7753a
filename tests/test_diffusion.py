"""Schedules, tiles, and models of this and other libraries as `Diffusion`."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import fastattack as fa
from fastattack.diffusion import Diffusion, DiffusionUNet, Schedule
from fastattack.diffusion.schedule import evenly
from fastattack.diffusion.tiles import blended, starts, weights


def test_the_linear_schedule_is_that_of_ddpm() -> None:
    shares = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000, dtype=np.float64))
    schedule = Schedule.linear()
    np.testing.assert_allclose(schedule.alphas_bar, shares, rtol=1e-12)
    assert schedule.alpha_bar(0) == 1
    assert schedule.alpha_bar(1) == pytest.approx(1 - 1e-4)
    assert schedule.alpha_bar(1000) == pytest.approx(4.04e-5, rel=0.01)  # arXiv 2006.11239: nearly no signal is left
    assert schedule.sigma(300) == pytest.approx(math.sqrt((1 - shares[299]) / shares[299]))


def test_the_cosine_schedule_follows_its_formula_until_betas_are_cut() -> None:
    schedule = Schedule.cosine(200)
    at = np.cos((np.arange(201) / 200 + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(schedule.alphas_bar[:199], (at / at[0])[1:200], rtol=1e-9)
    assert schedule.alphas_bar[199] == pytest.approx(schedule.alphas_bar[198] * 0.001)


def test_a_sigma_is_the_first_level_with_as_much_noise() -> None:
    schedule = Schedule.linear()
    for level in (1, 2, 37, 500, 1000):
        assert schedule.level_of(schedule.sigma(level)) == level
        assert schedule.level_of(schedule.sigma(level) * 0.9999) == level
    assert schedule.level_of(0) == 0
    assert schedule.level_of(schedule.sigma(36) * 1.0001) == 37
    with pytest.raises(ValueError, match="sigma: wanted a noise level from 0 to 157"):
        schedule.level_of(158)
    diffusion = Diffusion(lambda x, t: x, schedule, channels=1)  # images in [0, 1] are half as wide as the model's
    assert diffusion.sigma(100) == pytest.approx(schedule.sigma(100) / 2)
    assert diffusion.level_of(25 / 255) == schedule.level_of(50 / 255)


@pytest.mark.parametrize(("start", "stop", "count"), [(1000, 0, 7), (60, 0, 60), (60, 11, 4), (5, 0, 1)])
def test_levels_are_spread_evenly(start: int, stop: int, count: int) -> None:
    levels = evenly(start, stop, count)
    gaps = [a - b for a, b in pairwise(levels)]
    assert (levels[0], levels[-1], len(levels)) == (start, stop, count + 1)
    assert min(gaps) >= 1
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("shares", [(), (0.9, 0.95), (1.0, 0.5), (0.5, 0.0), (0.5, math.nan)])
def test_a_schedule_falls_from_below_1_to_above_0(shares: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="alphas_bar: wanted"):
        Schedule(shares)


# -- tiles -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "tile", "overlap"), [(64, 64, 16), (65, 64, 16), (257, 64, 16), (40, 64, 8), (200, 16, 7)]
)
def test_the_weights_of_tiles_sum_to_1_and_fall_to_their_ends(length: int, tile: int, overlap: int) -> None:
    total, size = np.zeros(length), min(length, tile)
    begin = starts(length, tile, overlap)
    for at, weight in zip(begin, weights(length, tile, overlap), strict=True):
        total[at : at + size] += weight.numpy()
        assert weight.min() > 0
    np.testing.assert_allclose(total, 1, rtol=1e-12)
    assert begin[-1] + size == length
    assert all(a + size - b >= overlap for a, b in pairwise(begin))


@pytest.mark.parametrize("shape", [(2, 1, 100, 70), (1, 3, 33, 150), (1, 1, 5, 9)])
def test_no_seam_in_what_each_tile_gets_right(shape: tuple[int, ...]) -> None:
    ramp = torch.linspace(0, 1, shape[3]).expand(shape) + 2 * torch.linspace(0, 1, shape[2])[:, None]
    for image in (torch.full(shape, 0.3), ramp):
        seen: list[tuple[int, ...]] = []

        def three_times(x: Tensor, seen: list[tuple[int, ...]] = seen) -> Tensor:
            seen.append(tuple(x.shape))
            return 3 * x

        out = blended(three_times, image, tile=32, overlap=8, multiple=4, at_once=3)
        torch.testing.assert_close(out, 3 * image, rtol=1e-6, atol=1e-6)
        assert all(s[2] % 4 == 0 and s[3] % 4 == 0 and s[0] <= max(3, shape[0]) for s in seen)


def test_tiles_under_inference_mode_and_then_with_autograd() -> None:
    def tripled(x: Tensor) -> Tensor:
        return 3 * x

    x = torch.rand(1, 1, 41, 43, dtype=torch.float64)
    options = {"tile": 32, "overlap": 8, "multiple": 1, "at_once": 2}
    with torch.inference_mode():
        blended(tripled, x, **options)
    leaf = x.clone().requires_grad_()
    blended(tripled, leaf, **options).sum().backward()
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad, torch.full_like(x, 3.0))


def test_a_step_between_tiles_is_blended_without_a_jump() -> None:
    """A prediction that is another constant in each tile: neighbours differ by a ramp's step at most."""
    count = [0]

    def another(x: Tensor) -> Tensor:
        count[0] += 1
        return torch.full_like(x, float(count[0] % 2))

    out = blended(another, torch.zeros(1, 1, 32, 112), tile=32, overlap=16, multiple=1, at_once=1)
    assert count[0] == 6
    assert out.max() - out.min() > 0.9
    assert (out[..., 1:] - out[..., :-1]).abs().max() <= 1.5 / 16


# -- models ------------------------------------------------------------------------------------------------------------


def test_what_a_model_predicts_becomes_the_noise() -> None:
    schedule, level = Schedule.linear(100), 40
    share = float(np.cumprod(1 - np.linspace(1e-4, 0.02, 100))[level - 1])
    g = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 2, 1, 8, 8, generator=g, dtype=torch.float64)
    noisy = math.sqrt(share) * clean + math.sqrt(1 - share) * noise
    outputs = {
        "epsilon": noise,
        "sample": clean,
        "v_prediction": math.sqrt(share) * noise - math.sqrt(1 - share) * clean,
    }
    for predicts, out in outputs.items():
        seen = []

        def model(x: Tensor, t: Tensor, out: Tensor = out, seen: list[Tensor] = seen) -> Tensor:
            seen.append(t)
            return torch.cat([out, out + 1], 1)  # the second half would be a learned variance

        diffusion = Diffusion(model, schedule, channels=1, predicts=predicts)
        torch.testing.assert_close(diffusion(noisy, level), noise, rtol=1e-10, atol=1e-10)
        assert seen[0].tolist() == [level - 1] * 2


def test_the_net_takes_its_sizes_and_knows_its_level() -> None:
    torch.manual_seed(0)
    net = DiffusionUNet(3, (16, 24)).eval()
    x, t = torch.randn(2, 3, 12, 10), torch.tensor([3, 700])
    assert float(net(x, t).detach().abs().max()) == 0  # begins as the prediction 0
    nn.init.normal_(net.leave.weight)
    with torch.no_grad():
        out = net(x, t)
        assert out.shape == x.shape
        assert not torch.allclose(out[:1], net(x[:1], t[1:]))
        torch.testing.assert_close(out[1:], net(x[1:], t[1:]), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="widths: wanted multiples of 8"):
        DiffusionUNet(1, (12,))


def _file(path: str, **changed: str) -> None:
    torch.manual_seed(1)
    net = DiffusionUNet(1, (8, 16))
    nn.init.normal_(net.leave.weight)
    info = {"architecture": "diffusion_unet", "channels": "1", "widths": "8 16", "schedule": "linear 50 0.001 0.1"}
    save_file({k: v.half() for k, v in net.state_dict().items()}, path, metadata=info | changed)


def test_load_a_file_of_the_training_script(tmp_path: object) -> None:
    path = f"{tmp_path}/model.safetensors"
    _file(path)
    diffusion = fa.diffusion.load(path)
    assert diffusion.schedule == Schedule.linear(50, 0.001, 0.1)
    assert (diffusion.channels, diffusion.multiple, diffusion.training) == (1, 2, False)
    assert not any(p.requires_grad or p.dtype != torch.float32 for p in diffusion.parameters())
    x = torch.rand(1, 1, 9, 7)
    assert diffusion(x, 50).shape == x.shape
    colour = fa.diffusion.load(path, channels=3)
    rgb = torch.rand(2, 3, 9, 7)
    torch.testing.assert_close(colour(rgb, 20)[:, 1:2], diffusion(rgb[:, 1:2], 20), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"x: wanted images \(B, 1, H, W\).*each_channel"):
        diffusion.require_images(rgb)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"architecture": "dncnn"}, "wanted metadata of scripts/train_diffusion.py"),
        ({"schedule": "linear 50"}, "wanted 'linear STEPS FIRST LAST'"),
        ({"widths": "8 24"}, "not a whole diffusion model"),
    ],
)
def test_a_file_that_is_no_diffusion_model(tmp_path: object, changed: dict[str, str], message: str) -> None:
    path = f"{tmp_path}/model.safetensors"
    _file(path, **changed)
    with pytest.raises(ValueError, match=message):
        fa.diffusion.load(path)


def test_a_denoiser_is_a_diffusion_model() -> None:
    """Of a Gaussian prior N(1/2, v) the best denoiser gives the noise that Tweedie's formula asks for."""
    variance = 0.04

    def denoise(y: Tensor, sigma: float) -> Tensor:
        return 0.5 + (y - 0.5) * variance / (variance + sigma**2)

    diffusion = fa.diffusion.from_denoiser(denoise, channels=1, largest=0.5)
    level = 120
    share = Schedule.linear().alpha_bar(level)
    x = torch.randn(1, 1, 4, 4, dtype=torch.float64)
    best = math.sqrt(1 - share) * x / (share * 4 * variance + 1 - share)  # twice the scale, four times the variance
    torch.testing.assert_close(diffusion(x, level), best, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match=r"t_star: wanted sigma <= 0\.5"):
        diffusion(x, 900)


class _Scheduler(SimpleNamespace):
    """What a scheduler of diffusers shows."""


def _scheduler(steps: int = 20, **config: object) -> _Scheduler:
    shares = torch.cumprod(1 - torch.linspace(1e-3, 0.2, steps), 0)
    settings = {"num_train_timesteps": steps, "prediction_type": "epsilon"} | config
    return _Scheduler(alphas_cumprod=shares, config=SimpleNamespace(**settings))


class _UNet(nn.Module):
    def __init__(self, **config: object) -> None:
        super().__init__()
        settings = {"in_channels": 1, "sample_size": 16, "block_out_channels": (8, 8, 8)}
        self.config = SimpleNamespace(**(settings | config))

    def forward(self, x: Tensor, t: Tensor) -> SimpleNamespace:
        assert x.shape[2] % 4 == 0
        return SimpleNamespace(sample=x * (1 + t[:, None, None, None]))


def test_a_unet_of_diffusers_by_its_interface() -> None:
    diffusion = fa.diffusion.from_diffusers(_UNet(), _scheduler())
    assert (diffusion.channels, diffusion.tile, diffusion.overlap, diffusion.multiple) == (1, 16, 4, 4)
    assert diffusion.schedule.steps == 20
    x = torch.randn(1, 1, 21, 35)
    torch.testing.assert_close(diffusion(x, 5), 5 * x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("unet", "scheduler", "kind", "message"),
    [
        (_UNet(), _scheduler(prediction_type="flow"), ValueError, "prediction_type"),
        (_UNet(), _scheduler(num_train_timesteps=30), ValueError, "wanted 30 levels as its num_train_timesteps"),
        (_UNet(num_train_timesteps=50), _scheduler(), ValueError, "wanted 50 levels as the model has, got 20"),
        (nn.Identity(), _scheduler(), TypeError, "unet: wanted a UNet2DModel"),
        (_UNet(), SimpleNamespace(), TypeError, "scheduler: wanted one of diffusers with alphas_cumprod"),
    ],
)
def test_a_schedule_that_does_not_fit_the_model(
    unet: nn.Module, scheduler: object, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        fa.diffusion.from_diffusers(unet, scheduler)


def test_diffusers_itself(tmp_path: object) -> None:
    """Its UNet2DModel from a folder, and the mean of its own DDPM and DDIM steps."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=16, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    ).eval()  # fmt: skip
    options = {"num_train_timesteps": 100, "clip_sample": False}
    ddpm, ddim = diffusers.DDPMScheduler(**options), diffusers.DDIMScheduler(**options, set_alpha_to_one=True)
    unet.save_pretrained(f"{tmp_path}/unet")
    ddpm.save_pretrained(f"{tmp_path}/scheduler")
    diffusion = fa.diffusion.load(f"{tmp_path}")
    assert diffusion.schedule.steps == 100
    x = torch.randn(1, 1, 16, 16)
    with torch.no_grad():
        eps = diffusion(x, 61)
        torch.testing.assert_close(eps, unet(x, 60).sample, rtol=1e-4, atol=1e-5)
    ddim.set_timesteps(10)  # 90, 80, ... 0: from level 61 to 51
    a, b, c = fa.diffusion.reverse_coefficients(diffusion.schedule, 61, 51, 0.0)
    torch.testing.assert_close(a * x + b * eps, ddim.step(eps, 60, x).prev_sample, rtol=1e-5, atol=1e-5)
    assert c == 0
    ddpm.set_timesteps(100)
    a, b, c = fa.diffusion.reverse_coefficients(diffusion.schedule, 61, 60, 1.0)
    drawn = ddpm.step(eps, 60, x, generator=torch.Generator().manual_seed(3)).prev_sample
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(a * x + b * eps + c * noise, drawn, rtol=1e-4, atol=1e-5)


def test_deepinvs_diffunet_by_its_interface() -> None:
    class DiffUNet(nn.Module):
        in_channels = 3

        def forward(self, x: Tensor, t: Tensor, y: None = None, type_t: str = "noise_level") -> Tensor:
            assert type_t == "timestep"
            return torch.cat([x * t[:, None, None, None], x], 1)

    diffusion = fa.diffusion.from_deepinv(DiffUNet())
    x = torch.randn(1, 3, 40, 33)
    torch.testing.assert_close(diffusion(x, 4), 3 * x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"predicts": "score"}, "predicts: wanted one of"),
        ({"tile": 20, "multiple": 8}, "tile: wanted a multiple of 8"),
        ({"tile": 16, "overlap": 8}, "overlap < tile / 2"),
        ({"channels": 3, "each_channel": True}, "each_channel: wanted a model of 1 channel"),
        ({"low": 1.0}, "low: wanted a number below high"),
    ],
)
def test_options_out_of_range(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Diffusion(lambda x, t: x, Schedule.linear(10), **({"channels": 1} | options))  # type: ignore[arg-type]


def test_a_model_that_answers_in_another_shape() -> None:
    diffusion = Diffusion(lambda x, t: x[..., 1:], Schedule.linear(10), channels=1)
    with pytest.raises(ValueError, match=r"diffusion: wanted \(1, 1, 8, 8\) from the model as its input has, got"):
        diffusion(torch.zeros(1, 1, 8, 8), 3)
