"""Models and schedules of other libraries as `Diffusion`."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .model import PREDICTS, Diffusion
from .schedule import Schedule


def schedule_from_diffusers(scheduler: Any) -> Schedule:
    """The levels of a scheduler of the package diffusers (DDPM, DDIM and others that have ``alphas_cumprod``).

    Raises:
        TypeError: it has none. ValueError: they do not fit its ``num_train_timesteps``, or reach 0.
    """
    shares = getattr(scheduler, "alphas_cumprod", None)
    if not isinstance(shares, Tensor):
        raise TypeError(f"scheduler: wanted one of diffusers with alphas_cumprod, got {type(scheduler).__name__}")
    steps = getattr(scheduler.config, "num_train_timesteps", len(shares))
    if steps != len(shares):
        raise ValueError(f"scheduler: wanted {steps} levels as its num_train_timesteps says, got {len(shares)}")
    return Schedule(tuple(shares.double().tolist()))


class _Diffusers(nn.Module):
    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor) -> Any:
        return self.unet(x, t).sample


def from_diffusers(unet: nn.Module, scheduler: Any, **options: Any) -> Diffusion:
    """A UNet2DModel of the package diffusers with the scheduler that it was trained with.

    Channels, prediction type, the tile (its ``sample_size``) and the multiple that sizes must have come from the two
    configurations; ``options`` of `Diffusion` override them. The scheduler's own steps are not used, nor its clipping.

    Raises:
        TypeError, ValueError: not such a model or scheduler, or a schedule that does not fit the model.
    """
    config = getattr(unet, "config", None)
    if config is None or not hasattr(config, "in_channels"):
        raise TypeError(f"unet: wanted a UNet2DModel of diffusers, got {type(unet).__name__}")
    schedule = schedule_from_diffusers(scheduler)
    trained = getattr(config, "num_train_timesteps", None)
    if trained is not None and trained != schedule.steps:
        raise ValueError(f"scheduler: wanted {trained} levels as the model has, got {schedule.steps}")
    predicts = getattr(scheduler.config, "prediction_type", "epsilon")
    if predicts not in PREDICTS:
        raise ValueError(f"scheduler: wanted a prediction_type of {', '.join(PREDICTS)}, got {predicts!r}")
    multiple = 2 ** (len(getattr(config, "block_out_channels", ())) - 1)
    size = getattr(config, "sample_size", None)
    size = max(size) if isinstance(size, (tuple, list)) else size
    found = {"channels": config.in_channels, "predicts": predicts, "multiple": multiple}
    if size is not None:
        found |= {"tile": -(-size // multiple) * multiple, "overlap": size // 4}
    return Diffusion(_Diffusers(unet), schedule, **(found | options))


class _Deepinv(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, t: Tensor) -> Any:
        return self.model(x, t, type_t="timestep")


def from_deepinv(model: nn.Module | str | Path | None = None, *, channels: int = 3, **options: Any) -> Diffusion:
    """deepinv's DiffUNet, which predicts the noise on the scale [-1, 1] (its ``type_t="timestep"``), linear schedule.

    Args:
        model: the network; a weight file for one that is made here; or None for the weights that deepinv fetches.
        channels: of a network that is made here.
        options: of `Diffusion`; by default tiles of 256 x 256, multiples of 32.

    Raises:
        RuntimeError: a network is to be made and deepinv (extra "deepinv") does not import.
    """
    if not isinstance(model, nn.Module):
        try:
            make = import_module("deepinv.models").DiffUNet
        except ImportError as error:
            raise RuntimeError(
                f"diffusion: deepinv does not import: {error}; pip install 'fastattack[deepinv]'"
            ) from error
        source = "download" if model is None else None
        with torch.random.fork_rng(devices=[]):
            net: nn.Module = make(in_channels=channels, out_channels=channels, pretrained=source)
        if model is not None:
            from ..models.weights import read_weights

            state, _ = read_weights(model)
            _load(net, state, str(model))
        model = net
    else:
        channels = int(getattr(model, "in_channels", channels))
    found = {"channels": channels, "tile": 256, "overlap": 64, "multiple": 32}
    return Diffusion(_Deepinv(model), Schedule.linear(), **(found | options))


def _load(net: nn.Module, state: dict[str, Tensor], name: str) -> None:
    """All tensors of a file, none missing but what the class computes itself."""
    own = set(net.state_dict()) - set(state) - {"sqrt_1m_alphas_cumprod", "sqrt_alphas_cumprod"}
    try:
        net.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(
            f"{name}: not weights of {type(net).__name__}: {' '.join(str(error).split())[:200]}"
        ) from error
    extra = set(state) - set(net.state_dict())
    if own or extra:
        raise ValueError(f"{name}: not weights of {type(net).__name__}: {sorted(own | extra)[:3]} missing or unknown")


class _Denoiser(nn.Module):
    def __init__(self, denoise: Callable[[Tensor, float], Any], sigmas: tuple[float, ...], largest: float) -> None:
        super().__init__()
        self.denoise, self.sigmas, self.largest = denoise, sigmas, largest

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        sigma = self.sigmas[int(t[0])]
        if sigma > self.largest:
            raise ValueError(f"t_star: wanted sigma <= {self.largest:g}, which the denoiser takes, got {sigma:g}")
        noisy = x * math.sqrt(1 + (2 * sigma) ** 2)  # x / sqrt(ab), as 1 / ab = 1 + (2 sigma)^2
        noisy = (noisy + 1) / 2
        found: Tensor = (noisy - self.denoise(noisy, sigma)) / sigma
        return found


def from_denoiser(
    denoise: Callable[[Tensor, float], Any],
    *,
    channels: int,
    largest: float,
    schedule: Schedule | None = None,
    **options: Any,
) -> Diffusion:
    """A Gaussian denoiser called as denoise(y, sigma), y and sigma on the scale of [0, 1], as a diffusion model.

    By Tweedie's formula eps(x_t, t) = (y - denoise(y, sigma_t)) / sigma_t with y = x_t / sqrt(ab_t) put to [0, 1]. One
    that was trained for all noise levels (FFDNet, DRUNet) purifies up to the largest of them.

    Args:
        largest: sigma that it takes.
        schedule: linear with 1000 levels by default.
        options: of `Diffusion`.
    """
    levels = Schedule.linear() if schedule is None else schedule
    sigmas = tuple(levels.sigma(n + 1) / 2 for n in range(levels.steps))
    return Diffusion(_Denoiser(denoise, sigmas, largest), levels, channels=channels, **options)
