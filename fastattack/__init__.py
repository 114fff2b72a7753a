"""fastattack: adversarial attacks on image denoisers and restorers, on fused kernels.

Every name is imported when it is first used: `import fastattack` alone brings neither torch nor anything else.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import (
        attacks,
        certify,
        defenses,
        diffusion,
        distillation,
        evaluate,
        information,
        metrics,
        models,
        objectives,
        ops,
        registration,
        training,
        typical,
        udc,
        views,
    )
    from .adapters import with_sigma
    from .attacks import (
        APGD,
        BIM,
        CW,
        DDN,
        DIM,
        FAB,
        FGSM,
        FMN,
        MIFGSM,
        MIGA,
        NIFGSM,
        PGD,
        SINIFGSM,
        TIM,
        VMIFGSM,
        VNIFGSM,
        AttackResult,
        CosPGD,
        DenoisingPGD,
        FeaturePGD,
        LPIPSAttack,
        ObsAtk,
        SegPGD,
        SimBA,
        Square,
        Universal,
        denoising_pgd,
        fgsm,
        pgd,
    )
    from .certify import Smoothed
    from .defenses import NoiseLevels, Purified, Purifier, select_noise_level
    from .distillation import DistillResult, distill, membership_inference
    from .each import EachResult, attack_each
    from .engine import NonFiniteError
    from .evaluate import (
        RobustnessCurve,
        SemanticChange,
        TradeoffCurve,
        TransferMatrix,
        robustness_curve,
        semantic_change,
        tradeoff_curve,
        transfer_matrix,
    )
    from .information import MutualInformation, mutual_information
    from .ops import BackendUnavailable, NoiseStats, Spectrum, noise_stats, use_backend
    from .sampler import NoisyDataset, TypicalSetSampler
    from .strength import StrengthReport, strength_check

__version__ = "0.1.0"

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
    "AttackResult",
    "BackendUnavailable",
    "CosPGD",
    "DenoisingPGD",
    "DistillResult",
    "EachResult",
    "FeaturePGD",
    "LPIPSAttack",
    "MutualInformation",
    "NoiseLevels",
    "NoiseStats",
    "NoisyDataset",
    "NonFiniteError",
    "ObsAtk",
    "Purified",
    "Purifier",
    "RobustnessCurve",
    "SegPGD",
    "SemanticChange",
    "SimBA",
    "Smoothed",
    "Spectrum",
    "Square",
    "StrengthReport",
    "TradeoffCurve",
    "TransferMatrix",
    "TypicalSetSampler",
    "Universal",
    "attack_each",
    "attacks",
    "certify",
    "defenses",
    "denoising_pgd",
    "diffusion",
    "distill",
    "distillation",
    "evaluate",
    "fgsm",
    "information",
    "membership_inference",
    "metrics",
    "models",
    "mutual_information",
    "noise_stats",
    "objectives",
    "ops",
    "pgd",
    "registration",
    "robustness_curve",
    "select_noise_level",
    "semantic_change",
    "strength_check",
    "tradeoff_curve",
    "training",
    "transfer_matrix",
    "typical",
    "udc",
    "use_backend",
    "views",
    "with_sigma",
]

_NAMES = {
    "adapters": "with_sigma",
    "attacks": "APGD BIM CW DDN DIM FAB FGSM FMN MIFGSM MIGA NIFGSM PGD SINIFGSM TIM VMIFGSM VNIFGSM AttackResult"
    " CosPGD DenoisingPGD FeaturePGD LPIPSAttack ObsAtk SegPGD SimBA Square Universal denoising_pgd fgsm pgd",
    "certify": "Smoothed",
    "defenses": "NoiseLevels Purified Purifier select_noise_level",
    "distillation": "DistillResult distill membership_inference",
    "each": "EachResult attack_each",
    "engine": "NonFiniteError",
    "evaluate": "RobustnessCurve SemanticChange TradeoffCurve TransferMatrix robustness_curve semantic_change"
    " tradeoff_curve transfer_matrix",
    "information": "MutualInformation mutual_information",
    "ops": "BackendUnavailable NoiseStats Spectrum noise_stats use_backend",
    "sampler": "NoisyDataset TypicalSetSampler",
    "strength": "StrengthReport strength_check",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}

if not TYPE_CHECKING:  # for a type checker a name that is not there stays an error

    def __getattr__(name: str) -> Any:
        if name in _HOMES:
            value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
            globals()[name] = value
            return value
        if not name.startswith("_") and find_spec(f"{__name__}.{name}"):
            return import_module(f".{name}", __name__)  # which sets the attribute, too
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
