"""fit: one look at an op's tensors, for the common case that there is nothing to say about them."""

from __future__ import annotations

from typing import Any

import torch  # noqa: F401  (first: its OpenMP runtime is then the module's too)

try:
    from fastattack._cpu import fit as fit
except ImportError:  # not built: the checks look at every tensor themselves

    def fit(tensors: tuple[Any, ...], writes: int, /) -> bool:
        """Whether the tensors surely pass check.images, and check.require_writable for the first ``writes``."""
        return False
