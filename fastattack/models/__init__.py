"""Published denoisers as plain modules, and `load` for their weights. Images are float, nominal range [0, 1]."""

from fastattack.models.dncnn import DnCNN, initialise
from fastattack.models.ecndnet import ECNDNet
from fastattack.models.ffdnet import FFDNet
from fastattack.models.loading import Denoiser, load
from fastattack.models.n2n import N2NUNet

__all__ = ["Denoiser", "DnCNN", "ECNDNet", "FFDNet", "N2NUNet", "initialise", "load"]
