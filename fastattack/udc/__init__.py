"""Images as a camera under a display takes them: point spread functions of displays, and the degradation as a module.

camera = fa.udc.Degradation(fa.udc.psf("toled"), shot=1e-3, read=2e-3)
degraded = camera(clean)  # differentiable; fa.training.degraded(camera) trains restorers on it
"""

from .degradation import TONES, Degradation
from .diffraction import LAYOUTS, layout, psf
from .files import read_psf

__all__ = ["LAYOUTS", "TONES", "Degradation", "layout", "psf", "read_psf"]
