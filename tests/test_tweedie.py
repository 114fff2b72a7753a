"""models.load("diffusion"): a diffusion model as a denoiser, against the Wiener filter of a Gaussian prior."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import fastattack as fa
from fastattack.diffusion import Diffusion, Schedule
from fastattack.images import central, read_image
from fastattack.metrics import psnr
from fastattack.models import open_model, parse_spec
from fastattack.models.tweedie import DiffusionDenoiser

ASSETS = Path(__file__).resolve().parents[1] / "fastattack" / "assets"


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0)])
def test_the_wiener_filter(low: float, high: float) -> None:
    """Pixels N(1/2, 0.3^2): E[x | y] = 1/2 + (y - 1/2) 0.09 / (0.09 + sigma^2), in closed form."""
    schedule, spread = Schedule.linear(200, 1e-3, 0.05), 0.3

    def best(x: Tensor, t: Tensor) -> Tensor:
        share = schedule.alpha_bar(int(t[0]) + 1)
        mean, variance = low + 0.5 * (high - low), (spread * (high - low)) ** 2
        return math.sqrt(1 - share) * (x - math.sqrt(share) * mean) / (share * variance + 1 - share)

    diffusion = Diffusion(best, schedule, channels=1, low=low, high=high)
    sigma = diffusion.sigma(40)
    model = DiffusionDenoiser(diffusion, channels=1, sigma=255 * sigma)
    y = torch.randn(2, 1, 5, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    want = 0.5 + (y - 0.5) * spread**2 / (spread**2 + sigma**2)
    assert model.level == 40
    assert torch.allclose(model(y), want, rtol=0, atol=1e-12)
    middle = 0.6 * diffusion.sigma(39) + 0.4 * diffusion.sigma(40)
    assert DiffusionDenoiser(diffusion, channels=1, sigma=255 * middle).level == 39, "the nearest level"


def test_the_embedded_model_denoises_and_can_be_attacked() -> None:
    clean = central(read_image(ASSETS / "images" / "camera.png", 1), 64)[None]
    noisy = clean + 25 / 255 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    model = fa.models.load("diffusion", sigma=25)
    assert not model.training
    before = psnr(model(noisy), clean)
    assert before > psnr(noisy, clean) + 7
    attacked = fa.DenoisingPGD(model, eps=5 / 255, steps=2, sigma=25 / 255)(noisy, clean)
    assert psnr(model(attacked), clean) < before - 0.5
    colour = fa.models.load("diffusion", sigma=25, channels=3, weights=ASSETS / "diffusion_small_gray.safetensors")
    assert colour.channels == 3
    alone = colour(noisy.expand(-1, 3, -1, -1))[:, 1:2]
    assert torch.allclose(alone, model(noisy), rtol=0, atol=1e-5), "each channel alone"


def test_by_name() -> None:
    file = ASSETS / "diffusion_small_gray.safetensors"
    for text, label in (("diffusion", "diffusion"), (f"diffusion:{file}", file.stem), (f"d=diffusion:{file}", "d")):
        opened = open_model(parse_spec(text), sigma=25, channels=1)
        assert (opened.label, opened.channels, opened.differentiable) == (label, 1, True)
        assert opened.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"sigma: wanted a noise level \(0-255 scale\) for diffusion, got None"):
        fa.models.load("diffusion")
    with pytest.raises(ValueError, match="sigma: wanted a noise level above 0"):
        fa.models.load("diffusion", sigma=0)
    with pytest.raises(ValueError, match=r"wanted metadata of scripts/train_diffusion\.py"):
        fa.models.load("diffusion", sigma=25, weights=ASSETS / "dncnn_small_gray_25.safetensors")
    with pytest.raises(FileNotFoundError, match="no such"):
        open_model(parse_spec(f"diffusion:{tmp_path / 'none.safetensors'}"), sigma=25)
    with pytest.raises(ValueError, match="wanted a folder of diffusers"):
        open_model(parse_spec(f"diffusion:{tmp_path}"), sigma=25)
    with pytest.raises(ValueError, match="did you mean 'diffusion'"):
        parse_spec("difusion")
