"""Certified robustness by randomised smoothing: of classifiers, and of what restores images."""

from .bounds import ABSTAIN, lower_bound, upper_bound
from .certificate import Certificate, certified_accuracy
from .noise import Gaussian, Laplace, LogConcave, Noise, Uniform
from .ratio import NumericRadius, numeric_radius
from .smoothed import Smoothed

__all__ = [
    "ABSTAIN",
    "Certificate",
    "Gaussian",
    "Laplace",
    "LogConcave",
    "Noise",
    "NumericRadius",
    "Smoothed",
    "Uniform",
    "certified_accuracy",
    "lower_bound",
    "numeric_radius",
    "upper_bound",
]
