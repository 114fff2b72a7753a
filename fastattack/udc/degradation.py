"""What a display in front of a camera does to an image, differentiable."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..engine.naming import names_now
from ..numbering import seed_of_draw
from ..ops import check, typical_noise
from .files import normalised

KNEE = 0.25  # of Reinhard's curve, as in arXiv 2104.09556
_ROOM = 1e-12  # below 1 for a pixel of Reinhard's curve, which never gets there
_DARK = 1e-6  # of the most light that arrives: what a transform's rounding leaves in black pixels is less
_TOE, _SLOPE, _OFFSET, _POWER = 0.0031308, 12.92, 0.055, 2.4  # IEC 61966-2-1


@dataclass(frozen=True)
class Tone:
    """How light becomes a pixel, and back."""

    image: Callable[[Tensor], Tensor]
    light: Callable[[Tensor], Tensor]


def _srgb(light: Tensor) -> Tensor:
    bright = light.clamp_min(_TOE)
    return torch.where(light > _TOE, (1 + _OFFSET) * bright.pow(1 / _POWER) - _OFFSET, _SLOPE * light)


def _srgb_light(image: Tensor) -> Tensor:
    bright = image.clamp_min(_SLOPE * _TOE)
    return torch.where(image > _SLOPE * _TOE, ((bright + _OFFSET) / (1 + _OFFSET)).pow(_POWER), image / _SLOPE)


TONES = {
    "srgb": Tone(_srgb, _srgb_light),
    "reinhard": Tone(lambda light: light / (light + KNEE), lambda image: KNEE * image / (1 - image).clamp_min(_ROOM)),
    "linear": Tone(lambda light: light, lambda image: image),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a camera under a display does, as data. See `Degradation`."""

    gain: float = 1.0
    saturation: float = 1.0
    tone: str = "srgb"
    shot: float = 1e-3
    read: float = 2e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tone not in TONES:
            raise ValueError(f"tone: wanted one of {', '.join(map(repr, TONES))}, got {self.tone!r}")
        for name, least in (("gain", "> 0"), ("saturation", "> 0"), ("shot", ">= 0"), ("read", ">= 0")):
            value = getattr(self, name)
            number = not isinstance(value, bool) and isinstance(value, (int, float)) and 0 <= value < math.inf
            if not number or (value == 0 and least == "> 0"):
                raise ValueError(f"{name}: wanted a finite number {least}, got {value!r}")
        check.whole(self.seed, "seed", 64)


class Degradation(nn.Module):
    """The image of a camera under a display: phi(clip(gain (x * k) + n)) (Feng et al., arXiv 2104.09556, section 3).

    ``x`` is the scene's light, phi^-1 of the clean image; ``k`` the point spread function (a true convolution, of each
    channel, by the FFT; the image goes on in its mirror image, so nothing wraps around); n Gaussian noise of the
    variance shot * light + read^2 (Poisson and read noise as Gaussians); the clip is that of the sensor, from 0 to
    ``saturation``; phi the tone curve. The paper's scenes have a high dynamic range, phi(x) = x / (x + 0.25)
    ("reinhard") and saturation 500. Images of 8 bits have no light beyond white: "srgb" is the curve that they were
    made by.

    Images (B, C, H, W) of any size not below that of k, nominal range [0, 1]. The result lies in [0, phi(saturation)]:
    [0, 1] for "reinhard", and for the others where the saturation is 1 at most, as it is by default. Computed in
    float32 or float64, returned in the type of the input. Autograd goes through all of it. The noise is Philox of
    (seed, draw, sample id, pixel); attacks name samples and draws themselves, and torch's generators are neither read
    nor moved.

    Args:
        psf: (h, w) or (C, h, w), C 1 (every channel) or 3, odd, >= 0; normalised here.
        gain: of the light: transmission of the display times exposure.
        saturation: most light that the sensor holds, in units of the scene's white for "srgb" and "linear". No scene
            has more, so phi^-1 is cut there, too.
        tone: "srgb", "reinhard" or "linear".
        shot: variance of the noise for each unit of light.
        read: standard deviation of the noise in the dark.
        seed: 0 <= seed < 2**64.

    Raises:
        TypeError, ValueError: an argument that cannot be; it is named.
    """

    psf: Tensor

    def __init__(
        self,
        psf: Any,
        *,
        gain: float = 1.0,
        saturation: float = 1.0,
        tone: str = "srgb",
        shot: float = 1e-3,
        read: float = 2e-3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.options = Options(gain=gain, saturation=saturation, tone=tone, shot=shot, read=read, seed=seed)
        self.register_buffer("psf", normalised(psf))

    def forward(self, x: Tensor, sample_ids: Tensor | None = None, draw: int | None = None) -> Tensor:
        """The degraded images (B, C, H, W), in the type of x.

        Args:
            sample_ids: (B,) integers that name the samples; 0 .. B-1 by default.
            draw: another number, >= 0, draws other noise.

        Raises:
            TypeError, ValueError: no float images, channels or a size that do not fit the point spread function.
        """
        self._require(x)
        if not len(x):
            return x  # the FFT takes no empty batch
        if sample_ids is None and draw is None:
            sample_ids, draw = names_now()
        options, tone = self.options, TONES[self.options.tone]
        with torch.autocast(x.device.type, enabled=False):
            wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
            light = tone.light(wide).clamp_max(options.saturation)
            light = options.gain * convolved(light, self.psf.to(wide.dtype))
            light = light + self._noise(light, sample_ids, draw or 0)
            return tone.image(light.clamp(0, options.saturation)).to(x.dtype)

    def for_samples(self, sample_ids: Tensor | None, draw: int) -> Callable[[Tensor], Tensor]:
        """This module for samples of these names and a draw; attacks call it so (`fastattack.engine.Single`)."""
        return lambda x: self(x, sample_ids, draw)

    def describe(self) -> dict[str, Any]:
        """Options and point spread function, by which a checkpoint tells this degradation from others."""
        return {**asdict(self.options), "psf": self.psf}

    def extra_repr(self) -> str:
        return f"psf {tuple(self.psf.shape)}, " + ", ".join(f"{k}={v!r}" for k, v in asdict(self.options).items())

    def _noise(self, light: Tensor, ids: Tensor | None, draw: int) -> Tensor | float:
        options = self.options
        if not (options.shot or options.read):
            return 0.0
        seed = seed_of_draw(options.seed, draw)
        z = typical_noise(light.detach(), sigma=1.0, typicality=None, seed=seed, sample_ids=ids)
        if not options.shot:
            return options.read * z
        # The square root is steepest at 0: the slope there would be that of rounding.
        dark = _DARK * options.gain * options.saturation
        return z * (options.shot * light.clamp_min(dark) + options.read**2).sqrt()

    def _require(self, x: Any) -> None:
        if not isinstance(x, Tensor) or x.dtype not in check.DTYPES:
            raise TypeError(f"x: wanted a float tensor (B, C, H, W), got {getattr(x, 'dtype', type(x).__name__)}")
        channels, *size = self.psf.shape
        if x.dim() != 4 or channels not in (1, x.shape[1]):
            wanted = channels if channels > 1 else "C"
            raise ValueError(f"x: wanted images (B, {wanted}, H, W) as the psf has, got {tuple(x.shape)}")
        if x.shape[2] < size[0] or x.shape[3] < size[1]:
            raise ValueError(
                f"x: wanted images of at least {size[0]} x {size[1]}, the size of the psf, got {tuple(x.shape[2:])}"
            )
        if x.device != self.psf.device:
            raise ValueError(f"x: wanted images on {self.psf.device} as the psf is, got {x.device}")


def convolved(x: Tensor, kernel: Tensor) -> Tensor:
    """x * kernel for images (B, C, H, W) that go on in their mirror image; kernel (C or 1, h, w), odd, h <= H, w <= W.

    The transform is of the padded image's size, of which only pixels that no circular sum has reached are kept.
    """
    for dim in (2, 3):
        x = _mirrored(x, dim, kernel.shape[dim - 1] // 2)
    size = x.shape[-2:]
    product = torch.fft.rfft2(x) * torch.fft.rfft2(kernel, s=size)
    found: Tensor = torch.fft.irfft2(product, s=size)
    return found[..., kernel.shape[1] - 1 :, kernel.shape[2] - 1 :]


def _mirrored(x: Tensor, dim: int, more: int) -> Tensor:
    """``more`` pixels at both ends, the border not repeated; flips have a deterministic gradient on each device."""
    if not more:
        return x
    size = x.shape[dim]
    before, after = x.narrow(dim, 1, more).flip(dim), x.narrow(dim, size - 1 - more, more).flip(dim)
    return torch.cat((before, x, after), dim)
