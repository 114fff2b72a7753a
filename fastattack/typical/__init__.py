"""Typicality of noise, the spectrum of perturbations, and a sampler fitted to a few attacked samples.

Noise and sigma are on the scale of the images (25/255), typicality in nats per pixel, frequencies in cycles per pixel.
"""

from .fitting import LEAST_SAMPLES, SpectrumFit, fit
from .statistics import expected_spread, in_typical_set, radial_spectrum, typicality_gap

__all__ = [
    "LEAST_SAMPLES",
    "SpectrumFit",
    "expected_spread",
    "fit",
    "in_typical_set",
    "radial_spectrum",
    "typicality_gap",
]
