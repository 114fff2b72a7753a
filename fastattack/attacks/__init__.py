"""Attacks: each a small composition of objective, threat and schedule over the one engine."""

from .base import Attack, AttackResult
from .denoising import DenoisingPGD, ObsAtk, denoising_pgd
from .gradient import BIM, FGSM, PGD, fgsm, pgd

__all__ = ["BIM", "FGSM", "PGD", "Attack", "AttackResult", "DenoisingPGD", "ObsAtk", "denoising_pgd", "fgsm", "pgd"]
