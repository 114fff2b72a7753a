"""foolbox.attacks, those that are covered."""

from typing import TYPE_CHECKING

from .base import Attack
from .fixed import (
    L1BasicIterativeAttack,
    L1FastGradientAttack,
    L1MomentumIterativeFastGradientMethod,
    L1ProjectedGradientDescentAttack,
    L2BasicIterativeAttack,
    L2FastGradientAttack,
    L2MomentumIterativeFastGradientMethod,
    L2ProjectedGradientDescentAttack,
    LinfBasicIterativeAttack,
    LinfFastGradientAttack,
    LinfMomentumIterativeFastGradientMethod,
    LinfProjectedGradientDescentAttack,
)
from .minimal import DDNAttack, L2CarliniWagnerAttack

FGM = L2FastGradientAttack
FGSM = LinfFastGradientAttack
L1PGD = L1ProjectedGradientDescentAttack
L2PGD = L2ProjectedGradientDescentAttack
LinfPGD = LinfProjectedGradientDescentAttack
PGD = LinfPGD
MIFGSM = LinfMomentumIterativeFastGradientMethod

__all__ = [
    "FGM",
    "FGSM",
    "L1PGD",
    "L2PGD",
    "MIFGSM",
    "PGD",
    "Attack",
    "DDNAttack",
    "L1BasicIterativeAttack",
    "L1FastGradientAttack",
    "L1MomentumIterativeFastGradientMethod",
    "L1ProjectedGradientDescentAttack",
    "L2BasicIterativeAttack",
    "L2CarliniWagnerAttack",
    "L2FastGradientAttack",
    "L2MomentumIterativeFastGradientMethod",
    "L2ProjectedGradientDescentAttack",
    "LinfBasicIterativeAttack",
    "LinfFastGradientAttack",
    "LinfMomentumIterativeFastGradientMethod",
    "LinfPGD",
    "LinfProjectedGradientDescentAttack",
]

if not TYPE_CHECKING:  # for a type checker every name would be there

    def __getattr__(name):
        raise AttributeError(f"fastattack.compat.foolbox.attacks has no {name!r}; docs/compat.md lists what is covered")
