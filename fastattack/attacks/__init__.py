"""Attacks: each a small composition of objective, threat and schedule over the one engine."""

from .base import Attack, AttackResult
from .denoising import DenoisingPGD, denoising_pgd
from .gradient import FGSM, PGD, fgsm, pgd

__all__ = ["FGSM", "PGD", "Attack", "AttackResult", "DenoisingPGD", "denoising_pgd", "fgsm", "pgd"]
