"""Denoisers of the package deepinv (optional), and a plug-and-play loop around them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastattack.adapters import with_sigma
from fastattack.models.weights import read_weights

PNP = "pnp-"
_CHANNELS = ("in_channels", "out_channels", "in_nc", "in_chans", "img_channels", "channels")  # as the classes call them


class PlugAndPlay(nn.Module):
    """A denoiser called as model(y, sigma) as the prior of half-quadratic splitting, differentiable throughout.

    DPIR (Zhang et al., arXiv 2008.13751, algorithm 1) for the identity as degradation: eight rounds of

        u = (x + a_k y) / (1 + a_k),  x = model(u, s_k)

    with s_k from 49/255 to sigma in equal ratios and a_k = (s_k / sigma)^2 / 0.23, as deepinv.optim.DPIR has them.

    Args:
        model: the denoiser, sigma on the scale of the images.
        sigma: standard deviation of the noise in the images, on their scale, above 0.
    """

    rounds = 8

    def __init__(self, model: nn.Module, sigma: float) -> None:
        super().__init__()
        if not sigma > 0:
            raise ValueError(f"sigma: wanted a noise level above 0 for a plug-and-play loop, got {sigma * 255:g}")
        self.model = model
        first = 49 / 255
        self.levels = [first * (sigma / first) ** (k / (self.rounds - 1)) for k in range(self.rounds)]
        self.weights = [(level / max(0.01, sigma)) ** 2 / 0.23 for level in self.levels]

    def forward(self, y: Tensor) -> Any:
        x = y
        for level, weight in zip(self.levels, self.weights, strict=True):
            x = self.model((x + weight * y) / (1 + weight), level)
        return x


class DeepinvDenoiser(nn.Module):
    """A denoiser of deepinv as model(y).

    Args:
        model: called as model(y).
        channels: image channels.
        sigma: the level that it assumes, 0-255 scale.
        differentiable: False where no gradient passes.
    """

    def __init__(
        self, model: Callable[[Tensor], Any], *, channels: int, sigma: float, differentiable: bool = True
    ) -> None:
        super().__init__()
        self.model = model
        self.channels = channels
        self.sigma = sigma
        self.differentiable = differentiable

    def forward(self, y: Tensor) -> Any:
        return self.model(y)


def load_deepinv(name: str, *, channels: int | None, sigma: float | None, weights: Path | None) -> DeepinvDenoiser:
    """The denoiser ``deepinv.models.<name>``, in eval mode, as model(y).

    Args:
        name: the class, "DRUNet", "SCUNet", "GSDRUNet", ...; with "pnp-" before it, in a `PlugAndPlay` loop.
        channels: given to classes that take such an argument; None leaves their own default.
        sigma: noise level on the 0-255 scale; deepinv gets it on the scale of the images.
        weights: a .safetensors, .pt or .pth file; None takes those that deepinv fetches for the class.

    Raises:
        ValueError: no such denoiser, no sigma, or weights or options that do not fit it.
        RuntimeError: deepinv is not there or does not import.
    """
    if sigma is None:
        raise ValueError(f"sigma: wanted a noise level (0-255 scale) for deepinv:{name}, got None")
    label, name = f"deepinv:{name}", name.removeprefix(PNP)
    make = _class(name)
    options, width = _options(label, make, channels, sigma, weights)
    try:
        with torch.random.fork_rng(devices=[]):  # initial weights are drawn, and thrown away
            model: nn.Module = make(**options)
    except OSError:
        raise
    except Exception as error:  # deepinv's classes raise what they like, their optional packages among them
        raise ValueError(f"{label}: deepinv cannot make it: {type(error).__name__}: {error}") from error
    if weights is not None:
        _load_weights(label, model, weights)
    model.eval()
    level = sigma / 255
    if label.startswith(f"deepinv:{PNP}"):
        inner: Callable[[Tensor], Any] = PlugAndPlay(model, level).eval()
    else:
        inner = with_sigma(model, level)
    found = DeepinvDenoiser(inner, channels=width, sigma=sigma, differentiable=name != "BM3D")
    return found.eval()


def _class(name: str) -> Callable[..., nn.Module]:
    try:
        models = import_module("deepinv").models
    except (ImportError, RuntimeError) as error:  # torchvision for another torch is a RuntimeError
        raise RuntimeError(
            f"deepinv:{name}: needs the package deepinv, which does not import here ({error}); "
            "pip install 'fastattack[deepinv]'"
        ) from error
    make: Any = getattr(models, name, None)
    if not callable(make):
        known = [n for n in dir(models) if callable(getattr(models, n)) and n[0].isupper()]
        near = ", ".join(get_close_matches(name, known, n=3, cutoff=0.4) or known)
        raise ValueError(f"model: deepinv has no denoiser {name!r}; the nearest: {near}")
    found: Callable[..., nn.Module] = make
    return found


def _options(
    label: str, make: Callable[..., Any], channels: int | None, sigma: float, weights: Path | None
) -> tuple[dict[str, Any], int]:
    """What the class is called with, and the channels that it then has."""
    parameters = inspect.signature(make).parameters
    options: dict[str, Any] = {}
    named = [key for key in _CHANNELS if key in parameters]
    default = parameters[named[0]].default if named else None
    width = channels if channels is not None else default if isinstance(default, int) else 3
    options.update(dict.fromkeys(named, width))
    if "pretrained_noise_level" in parameters:
        options["pretrained_noise_level"] = int(sigma) if sigma == int(sigma) else sigma
    if weights is not None:
        options |= {"pretrained": None} if "pretrained" in parameters else {}
    elif "pretrained" in parameters and parameters["pretrained"].default is None:
        options["pretrained"] = "download"
    elif "pretrained" not in parameters and named:
        raise ValueError(f"{label}: deepinv has no weights for it; wanted {label}=FILE")
    return options, width


def _load_weights(label: str, model: nn.Module, weights: Path) -> None:
    state, _ = read_weights(weights)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:300]
        raise ValueError(f"{weights}: not weights of {label}: {first}") from error
