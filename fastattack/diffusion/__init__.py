"""Diffusion models: eps(x_t, t) with a noise schedule."""

from .net import DiffusionUNet
from .schedule import Schedule

__all__ = ["DiffusionUNet", "Schedule"]
