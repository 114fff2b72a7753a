"""fastattack: adversarial attacks on image denoisers and restorers, on fused kernels."""

from . import attacks, metrics, models, objectives, ops, training, typical
from .adapters import with_sigma
from .attacks import (  # black-box
    BIM,
    FGSM,
    PGD,
    AttackResult,
    DenoisingPGD,
    ObsAtk,
    SimBA,
    Square,
    denoising_pgd,
    fgsm,
    pgd,
)
from .engine import NonFiniteError
from .ops import BackendUnavailable, NoiseStats, Spectrum, noise_stats, use_backend
from .sampler import NoisyDataset, TypicalSetSampler
from .strength import StrengthReport, strength_check

__version__ = "0.1.0"

__all__ = [
    "BIM",
    "FGSM",
    "PGD",
    "AttackResult",
    "BackendUnavailable",
    "DenoisingPGD",
    "NoiseStats",
    "NoisyDataset",
    "NonFiniteError",
    "ObsAtk",
    "SimBA",
    "Spectrum",
    "Square",
    "StrengthReport",
    "TypicalSetSampler",
    "attacks",
    "denoising_pgd",
    "fgsm",
    "metrics",
    "models",
    "noise_stats",
    "objectives",
    "ops",
    "pgd",
    "strength_check",
    "training",
    "typical",
    "use_backend",
    "with_sigma",
]
