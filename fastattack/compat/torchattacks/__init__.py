"""Drop-in for torchattacks 3.5: ``import fastattack.compat.torchattacks as torchattacks``.

The same classes, arguments, modes and conventions, on this project's engine; docs/compat.md has what is the same to
rounding, what is better, and what is not here.
"""

from typing import NoReturn

from .attack import Attack as Attack
from .ensemble import APGD, APGDT, FAB, AutoAttack
from .gradient import BIM, EOTPGD, FFGSM, FGSM, GN, PGD, PGDL2, RFGSM, TPGD, VANILA
from .multiattack import MultiAttack
from .search import CW, Square
from .transfer import DIFGSM, MIFGSM, NIFGSM, SINIFGSM, TIFGSM, UPGD, VMIFGSM, VNIFGSM

__all__ = [
    "APGD",
    "APGDT",
    "BIM",
    "CW",
    "DIFGSM",
    "EOTPGD",
    "FAB",
    "FFGSM",
    "FGSM",
    "GN",
    "MIFGSM",
    "NIFGSM",
    "PGD",
    "PGDL2",
    "RFGSM",
    "SINIFGSM",
    "TIFGSM",
    "TPGD",
    "UPGD",
    "VANILA",
    "VMIFGSM",
    "VNIFGSM",
    "AutoAttack",
    "MultiAttack",
    "Square",
]

__version__ = "3.5.1"  # of the interface
__wrapper__ = ["MultiAttack"]
_THEIRS = (
    "DeepFool", "EADEN", "EADL1", "JSMA", "Jitter", "LGV", "OnePixel", "PGDRS", "PGDRSL2", "PIFGSM", "PIFGSMPP",
    "Pixle", "SPSA", "SparseFool",
)  # fmt: skip


def __getattr__(name: str) -> NoReturn:
    if name in _THEIRS:
        raise AttributeError(f"{__name__} has no {name} (docs/compat.md says why); torchattacks itself has it")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
