"""What stands before a model: purification by diffusion."""

from .purifier import Purified, Purifier

__all__ = ["Purified", "Purifier"]
