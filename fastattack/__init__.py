"""fastattack: adversarial attacks on image denoisers and restorers, on fused kernels."""

from . import attacks, metrics, models, objectives, ops
from .adapters import with_sigma
from .attacks import FGSM, PGD, AttackResult, DenoisingPGD, denoising_pgd, fgsm, pgd
from .engine import NonFiniteError
from .ops import BackendUnavailable, NoiseStats, noise_stats, use_backend

__version__ = "0.1.0"

__all__ = [
    "FGSM",
    "PGD",
    "AttackResult",
    "BackendUnavailable",
    "DenoisingPGD",
    "NoiseStats",
    "NonFiniteError",
    "attacks",
    "denoising_pgd",
    "fgsm",
    "metrics",
    "models",
    "noise_stats",
    "objectives",
    "ops",
    "pgd",
    "use_backend",
    "with_sigma",
]
