"""What was certified, as data, and what it says of a set of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .bounds import ABSTAIN
from .noise import Noise
from .norms import Norm


@dataclass(frozen=True)
class Certificate:
    """What `fastattack.Smoothed.certify` found for B images.

    Attributes:
        label: (B,) the class, or `ABSTAIN` (-1).
        selected: (B,) the class that was likeliest among the first n0 copies.
        count: (B,) of the n other copies that the model puts into it.
        p: (B,) float64, the lower confidence bound of its probability.
        n: copies of the estimation.
        alpha: failure probability of each image's bound.
        family: images for which the failure probability was divided; 1: none.
        noise: of the smoothing.
        dim: numbers of an image.
    """

    label: Tensor
    selected: Tensor
    count: Tensor
    p: Tensor
    n: int
    alpha: float
    family: int
    noise: Noise
    dim: int

    @property
    def failure(self) -> float:
        """The probability, at most, that a certificate is wrong: of each image, or with a ``family`` of any."""
        return self.alpha * self.family + self.noise.failure

    def radius(self, norm: Norm | None = None) -> Tensor:
        """(B,) float64: no perturbation shorter than this changes the smoothed class; 0 where it abstains.

        Args:
            norm: "l1", "l2", "linf" or p >= 1; None: the one in which the noise certifies best.
        """
        return self.noise.radius(self.p, self.noise.home if norm is None else norm, self.dim)

    def accuracy(self, labels: Tensor, radii: Sequence[float] | Tensor, norm: Norm | None = None) -> Tensor:
        """(R,) certified accuracy: the share of images that are right and certified to each radius, which is included
        at 0 and excluded from the ball else."""
        return certified_accuracy(self.radius(norm), self.label == labels.to(self.label.device), radii)

    def average_radius(self, labels: Tensor, norm: Norm | None = None) -> float:
        """The mean radius, 0 where the answer is wrong or none (ACR)."""
        right = self.label == labels.to(self.label.device)
        return float(torch.where(right, self.radius(norm), 0.0).mean())

    @property
    def abstained(self) -> Tensor:
        """(B,)"""
        return self.label == ABSTAIN


def certified_accuracy(radius: Tensor, right: Tensor, radii: Sequence[float] | Tensor) -> Tensor:
    """(R,) float64: the share of all images that are right with a radius at least as large."""
    at = torch.as_tensor(radii, dtype=torch.float64, device=radius.device)
    return ((radius[:, None] >= at) & right[:, None]).double().mean(0)


def certificate_of(
    selected: Tensor, count: Tensor, n: int, alpha: float, family: int, noise: Noise, dim: int
) -> Certificate:
    """From counts; the bound is Clopper and Pearson's."""
    from .bounds import lower_bound

    each = alpha / family
    p = lower_bound(count, n, each)
    label = torch.where(p > 0.5, selected, ABSTAIN)
    return Certificate(label, selected, count, p, n, each, family, noise, dim)
