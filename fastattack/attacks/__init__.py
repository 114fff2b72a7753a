"""Attacks: each a small composition of objective, threat, schedule and walk over the one engine."""

from .apgd import APGD
from .base import Attack, AttackResult, Options
from .denoising import DenoisingPGD, ObsAtk, denoising_pgd
from .dense import CosPGD, SegPGD
from .fab import FAB
from .gradient import BIM, FGSM, PGD, fgsm, pgd
from .miga import MIGA
from .minimal import CW, DDN, FMN
from .mining import Mining
from .perceptual import FeaturePGD, LPIPSAttack
from .simba import SimBA
from .square import Square
from .transfer import DIM, MIFGSM, NIFGSM, TIM
from .universal import Universal, UniversalResult
from .variance import SINIFGSM, VMIFGSM, VNIFGSM

__all__ = [
    "APGD",
    "BIM",
    "CW",
    "DDN",
    "DIM",
    "FAB",
    "FGSM",
    "FMN",
    "MIFGSM",
    "MIGA",
    "NIFGSM",
    "PGD",
    "SINIFGSM",
    "TIM",
    "VMIFGSM",
    "VNIFGSM",
    "Attack",
    "AttackResult",
    "CosPGD",
    "DenoisingPGD",
    "FeaturePGD",
    "LPIPSAttack",
    "Mining",
    "ObsAtk",
    "Options",
    "SegPGD",
    "SimBA",
    "Square",
    "Universal",
    "UniversalResult",
    "denoising_pgd",
    "fgsm",
    "pgd",
]
