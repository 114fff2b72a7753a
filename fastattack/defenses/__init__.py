"""What stands before a model: purification by diffusion."""

from .adaptive import AdaptiveReport, AdaptiveRow, adaptive_check
from .auxiliary import Auxiliary
from .auxiliary_training import AuxiliaryTraining, train_auxiliary
from .frechet import frechet_distance
from .guide import LatentGuide
from .levels import NoiseLevels, select_noise_level
from .purifier import Purified, Purifier

__all__ = [
    "AdaptiveReport",
    "AdaptiveRow",
    "Auxiliary",
    "AuxiliaryTraining",
    "LatentGuide",
    "NoiseLevels",
    "Purified",
    "Purifier",
    "adaptive_check",
    "frechet_distance",
    "select_noise_level",
    "train_auxiliary",
]
