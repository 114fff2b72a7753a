"""What stands before a model: purification by diffusion, and simple filters to compare it with."""

from .adaptive import AdaptiveReport, AdaptiveRow, adaptive_check
from .auxiliary import Auxiliary
from .auxiliary_training import AuxiliaryTraining, train_auxiliary
from .defended import Defended
from .frechet import frechet_distance
from .guide import LatentGuide
from .levels import NoiseLevels, select_noise_level
from .purifier import Purified, Purifier
from .simple import Blur, Bm3d, Jpeg, Median
from .spec import DefenseSpec, OpenedDefense, open_defense, parse_defense

__all__ = [
    "AdaptiveReport",
    "AdaptiveRow",
    "Auxiliary",
    "AuxiliaryTraining",
    "Blur",
    "Bm3d",
    "Defended",
    "DefenseSpec",
    "Jpeg",
    "LatentGuide",
    "Median",
    "NoiseLevels",
    "OpenedDefense",
    "Purified",
    "Purifier",
    "adaptive_check",
    "frechet_distance",
    "open_defense",
    "parse_defense",
    "select_noise_level",
    "train_auxiliary",
]
