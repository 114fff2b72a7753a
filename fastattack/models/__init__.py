"""Published denoisers as plain modules, `load` for their weights, and models as the command line names them.

Images are float, nominal range [0, 1].
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastattack.models.deepinv import DeepinvDenoiser
from fastattack.models.dncnn import DnCNN, initialise
from fastattack.models.ecndnet import ECNDNet
from fastattack.models.ffdnet import FFDNet
from fastattack.models.loading import Denoiser, load
from fastattack.models.n2n import N2NUNet
from fastattack.models.spec import ModelSpec, OpenedModel, check_labels, open_model, parse_spec
from fastattack.models.udc_unet import UDCUNet, new_udc_unet

if TYPE_CHECKING:
    from fastattack.models.llm_morph import LLMMorph

__all__ = [
    "DeepinvDenoiser",
    "Denoiser",
    "DnCNN",
    "ECNDNet",
    "FFDNet",
    "LLMMorph",
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


def __getattr__(name: str) -> Any:
    if name == "LLMMorph":  # it brings the registration package, which is built on models
        from fastattack.models.llm_morph import LLMMorph

        return LLMMorph
    if name in ("language", "llm_morph"):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
