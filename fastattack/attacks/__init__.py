"""Attacks: each a small composition of objective, threat, schedule and walk over the one engine."""

from .base import Attack, AttackResult, Options
from .denoising import DenoisingPGD, ObsAtk, denoising_pgd
from .dense import CosPGD, SegPGD
from .gradient import BIM, FGSM, PGD, fgsm, pgd
from .perceptual import FeaturePGD, LPIPSAttack
from .transfer import DIM, MIFGSM, NIFGSM, TIM
from .universal import Universal, UniversalResult

__all__ = [
    "BIM",
    "DIM",
    "FGSM",
    "MIFGSM",
    "NIFGSM",
    "PGD",
    "TIM",
    "Attack",
    "AttackResult",
    "CosPGD",
    "DenoisingPGD",
    "FeaturePGD",
    "LPIPSAttack",
    "ObsAtk",
    "Options",
    "SegPGD",
    "Universal",
    "UniversalResult",
    "denoising_pgd",
    "fgsm",
    "pgd",
]
