"""What an attack climbs: functions of (output, target) that give one loss for each sample, (B,).

Any such function will do; these are the common ones. They are computed in float32 at least, whatever the model returns,
and a targeted attack goes down them. Those with options are objects, made before use: ``fa.objectives.ssim()``,
``fa.objectives.charbonnier(epsilon=1e-2)``; the others are the functions themselves: ``fa.objectives.mse``.
"""

from .base import Objective, Scheduled
from .classify import cross_entropy, cw_margin, dlr, dlr_targeted, kl_divergence, logit_difference
from .dense import cospgd, segpgd
from .deviation import deviation, deviation_target
from .multiscale import ms_ssim
from .perceptual import features, lpips
from .pixel import charbonnier, mae, mse, psnr
from .reading import ctc
from .structure import ssim

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
    "segpgd",
    "ssim",
]
