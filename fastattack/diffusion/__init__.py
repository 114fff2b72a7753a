"""Diffusion models: what predicts the noise, with its schedule; the embedded one, and those of other libraries."""

from .adapters import from_deepinv, from_denoiser, from_diffusers, schedule_from_diffusers
from .loading import load
from .model import Diffusion
from .net import DiffusionUNet
from .process import reverse_coefficients
from .sampling import noise_losses, sample
from .schedule import Schedule

__all__ = [
    "Diffusion",
    "DiffusionUNet",
    "Schedule",
    "from_deepinv",
    "from_denoiser",
    "from_diffusers",
    "load",
    "noise_losses",
    "reverse_coefficients",
    "sample",
    "schedule_from_diffusers",
]
