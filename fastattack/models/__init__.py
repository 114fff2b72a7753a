"""Published denoisers as plain modules, `load` for their weights, and models as the command line names them.

Images are float, nominal range [0, 1].
"""

from fastattack.models.deepinv import DeepinvDenoiser
from fastattack.models.dncnn import DnCNN, initialise
from fastattack.models.ecndnet import ECNDNet
from fastattack.models.ffdnet import FFDNet
from fastattack.models.loading import Denoiser, load
from fastattack.models.n2n import N2NUNet
from fastattack.models.spec import ModelSpec, OpenedModel, check_labels, open_model, parse_spec
from fastattack.models.udc_unet import UDCUNet, new_udc_unet

__all__ = [
    "DeepinvDenoiser",
    "Denoiser",
    "DnCNN",
    "ECNDNet",
    "FFDNet",
    "ModelSpec",
    "N2NUNet",
    "OpenedModel",
    "UDCUNet",
    "check_labels",
    "initialise",
    "load",
    "new_udc_unet",
    "open_model",
    "parse_spec",
]
