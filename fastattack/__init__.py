"""fastattack: adversarial attacks on image denoisers and restorers, on fused kernels."""

from . import attacks, metrics, models, objectives, ops, training, typical, views
from .adapters import with_sigma
from .attacks import (
    BIM,
    DIM,
    FGSM,
    MIFGSM,
    NIFGSM,
    PGD,
    TIM,
    AttackResult,
    CosPGD,
    DenoisingPGD,
    FeaturePGD,
    LPIPSAttack,
    ObsAtk,
    SegPGD,
    Universal,
    denoising_pgd,
    fgsm,
    pgd,
)
from .each import EachResult, attack_each
from .engine import NonFiniteError
from .ops import BackendUnavailable, NoiseStats, Spectrum, noise_stats, use_backend
from .sampler import NoisyDataset, TypicalSetSampler

__version__ = "0.1.0"

__all__ = [
    "BIM",
    "DIM",
    "FGSM",
    "MIFGSM",
    "NIFGSM",
    "PGD",
    "TIM",
    "AttackResult",
    "BackendUnavailable",
    "CosPGD",
    "DenoisingPGD",
    "EachResult",
    "FeaturePGD",
    "LPIPSAttack",
    "NoiseStats",
    "NoisyDataset",
    "NonFiniteError",
    "ObsAtk",
    "SegPGD",
    "Spectrum",
    "TypicalSetSampler",
    "Universal",
    "attack_each",
    "attacks",
    "denoising_pgd",
    "fgsm",
    "metrics",
    "models",
    "noise_stats",
    "objectives",
    "ops",
    "pgd",
    "training",
    "typical",
    "use_backend",
    "views",
    "with_sigma",
]
