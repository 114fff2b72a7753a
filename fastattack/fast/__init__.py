"""Gradients made fast: precision, memory format, folded batch norms, parts of a batch, compilation, CUDA graphs."""

from .prepare import Prepared
from .speed import Speed, speed_of

__all__ = ["Prepared", "Speed", "speed_of"]
