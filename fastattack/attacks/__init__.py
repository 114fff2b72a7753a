"""Attacks: each a small composition of objective, threat and schedule over the one engine."""

from .base import Attack, AttackResult
from .denoising import DenoisingPGD, ObsAtk, denoising_pgd
from .gradient import BIM, FGSM, PGD, fgsm, pgd
from .simba import SimBA
from .square import Square

__all__ = [
    "BIM",
    "FGSM",
    "PGD",
    "Attack",
    "AttackResult",
    "DenoisingPGD",
    "ObsAtk",
    "SimBA",
    "Square",
    "denoising_pgd",
    "fgsm",
    "pgd",
]
