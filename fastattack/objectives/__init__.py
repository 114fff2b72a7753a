"""What an attack climbs: functions of (output, target) that give one loss for each sample, (B,).

Any such function will do; these are the common ones. They are computed in float32 at least, whatever the model returns,
and a targeted attack goes down them. Those with options are objects, made before use: ``fa.objectives.ssim()``,
``fa.objectives.charbonnier(epsilon=1e-2)``; the others are the functions themselves: ``fa.objectives.mse``. Those of
displacement fields are in ``fa.objectives.registration``, imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .base import Objective, Scheduled
from .classify import cross_entropy, cw_margin, dlr, dlr_targeted, kl_divergence, logit_difference
from .dense import cospgd, segpgd
from .deviation import deviation, deviation_target
from .multiscale import ms_ssim
from .perceptual import features, lpips
from .pixel import charbonnier, mae, mse, psnr
from .reading import ctc
from .structure import ssim

if TYPE_CHECKING:
    from . import registration

__all__ = [
    "Objective",
    "Scheduled",
    "charbonnier",
    "cospgd",
    "cross_entropy",
    "ctc",
    "cw_margin",
    "deviation",
    "deviation_target",
    "dlr",
    "dlr_targeted",
    "features",
    "kl_divergence",
    "logit_difference",
    "lpips",
    "mae",
    "ms_ssim",
    "mse",
    "psnr",
    "registration",
    "segpgd",
    "ssim",
]


if not TYPE_CHECKING:  # it imports fastattack.registration, which imports the attacks, which import this

    def __getattr__(name: str) -> Any:
        if name == "registration":
            return import_module(f".{name}", __name__)  # which sets the attribute, too
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
