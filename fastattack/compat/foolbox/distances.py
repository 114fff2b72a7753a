"""foolbox.distances: how far images are apart, one number for each sample."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from .native import like, unwrap


class Distance(ABC):
    """A distance between two batches, and the way back to within one."""

    @abstractmethod
    def __call__(self, references: Any, perturbed: Any) -> Any: ...

    @abstractmethod
    def clip_perturbation(self, references: Any, perturbed: Any, epsilon: float) -> Any: ...


class LpDistance(Distance):
    """The lp norm of the difference.

    Args:
        p: 0, 1, 2, math.inf, or another number > 0.
    """

    def __init__(self, p: float) -> None:
        self.p = p

    def __repr__(self) -> str:
        return f"LpDistance({self.p})"

    def __str__(self) -> str:
        return f"L{self.p} distance"

    def __call__(self, references: Any, perturbed: Any) -> Any:
        """(B,) distances between the samples of two batches (B, ...)."""
        x, y = unwrap(references, "references"), unwrap(perturbed, "perturbed")
        return like(references)(self._norms(y - x).to(y.dtype))

    def clip_perturbation(self, references: Any, perturbed: Any, epsilon: float) -> Any:
        """``perturbed`` with every perturbation scaled back (linf: clipped) to ``epsilon``; bit for bit where it is
        no larger.

        Raises:
            NotImplementedError: "l0" perturbations larger than epsilon.
        """
        x, y = unwrap(references, "references"), unwrap(perturbed, "perturbed")
        p = y - x
        if self.p == math.inf:
            return like(perturbed)(torch.where(p.abs() <= epsilon, y, x + p.clamp(-epsilon, epsilon)))
        norms = self._norms(p).reshape(-1, *[1] * (p.dim() - 1))
        inside = norms <= epsilon
        if self.p == 0:
            if not bool(inside.all()):
                raise NotImplementedError("distance: wanted l1, l2 or linf to clip to epsilon, got l0")
            return perturbed
        return like(perturbed)(torch.where(inside, y, x + p * (epsilon / norms).to(y.dtype)))

    def _norms(self, p: Tensor) -> Tensor:
        """(B,) float64: in float32 torch is off by 3e-5 for the l1 norms of small images already."""
        norms: Tensor = torch.linalg.vector_norm(p.flatten(1), self.p, dim=1, dtype=torch.float64)
        return norms


l0 = LpDistance(0)
l1 = LpDistance(1)
l2 = LpDistance(2)
linf = LpDistance(math.inf)
