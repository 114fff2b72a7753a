"""Certified robustness by randomised smoothing: of classifiers, and of what restores images."""

from .bounds import ABSTAIN, lower_bound, upper_bound
from .centre import CentreSmoothing, centre_smoothing
from .certificate import Certificate, certified_accuracy
from .median import MedianSmoothing, median_smoothing
from .noise import Gaussian, Laplace, LogConcave, Noise, Uniform
from .optimise import NoiseChoice, NoiseTrial, optimise_noise
from .ratio import NumericRadius, numeric_radius
from .smoothed import Smoothed

__all__ = [
    "ABSTAIN",
    "CentreSmoothing",
    "Certificate",
    "Gaussian",
    "Laplace",
    "LogConcave",
    "MedianSmoothing",
    "Noise",
    "NoiseChoice",
    "NoiseTrial",
    "NumericRadius",
    "Smoothed",
    "Uniform",
    "centre_smoothing",
    "certified_accuracy",
    "lower_bound",
    "median_smoothing",
    "numeric_radius",
    "optimise_noise",
    "upper_bound",
]
