"""What stands before a model: purification by diffusion."""

from .adaptive import AdaptiveReport, AdaptiveRow, adaptive_check
from .frechet import frechet_distance
from .levels import NoiseLevels, select_noise_level
from .purifier import Purified, Purifier

__all__ = [
    "AdaptiveReport",
    "AdaptiveRow",
    "NoiseLevels",
    "Purified",
    "Purifier",
    "adaptive_check",
    "frechet_distance",
    "select_noise_level",
]
