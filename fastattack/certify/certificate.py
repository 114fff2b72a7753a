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
        classes: K, where it is known.
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
    classes: int | None = None

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
        at 0 and excluded from the ball else.

        Raises:
            TypeError, ValueError: labels other than (B,) class numbers; radii that are no list of numbers >= 0.
        """
        return certified_accuracy(self.radius(norm), self.right(labels), radii)

    def average_radius(self, labels: Tensor, norm: Norm | None = None) -> float:
        """The mean radius, 0 where the answer is wrong or none (ACR). Labels as for `accuracy`."""
        return float(torch.where(self.right(labels), self.radius(norm), 0.0).mean())

    def right(self, labels: Tensor) -> Tensor:
        """(B,) where the answer is the label. Labels as for `accuracy`."""
        wanted = labels_of(labels, len(self.label), self.classes).to(self.label.device)
        return (self.label == wanted) & ~self.abstained

    @property
    def abstained(self) -> Tensor:
        """(B,)"""
        return self.label == ABSTAIN


def labels_of(labels: Tensor, count: int, classes: int | None = None) -> Tensor:
    """The labels (B,) as they came.

    Raises:
        TypeError, ValueError: no integer tensor, or not (B,) class numbers in 0 .. K-1.
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels: wanted a tensor of {count} class numbers, got {type(labels).__name__}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool or labels.shape != (count,):
        kind = str(labels.dtype).removeprefix("torch.")
        raise ValueError(f"labels: wanted ({count},) class numbers, got shape {tuple(labels.shape)} {kind}")
    least, most = (int(labels.min()), int(labels.max())) if count else (0, 0)
    if least < 0 or (classes is not None and most >= classes):
        wanted = ">= 0" if classes is None else f"in 0 .. {classes - 1}"
        raise ValueError(f"labels: wanted class numbers {wanted}, got {least} to {most}")
    return labels


def certified_accuracy(radius: Tensor, right: Tensor, radii: Sequence[float] | Tensor) -> Tensor:
    """(R,) float64: the share of all images that are right with a radius at least as large.

    Args:
        radius, right: (B,), the second bool.

    Raises:
        ValueError: shapes that differ; radii that are no list of numbers >= 0.
    """
    if right.dtype != torch.bool or radius.dim() != 1 or right.shape != radius.shape:
        kind = str(right.dtype).removeprefix("torch.")
        raise ValueError(f"right: wanted bool of shape {tuple(radius.shape)}, got {kind} {tuple(right.shape)}")
    try:
        at = torch.as_tensor(radii, dtype=torch.float64, device=radius.device)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"radii: wanted a list of numbers >= 0, got {radii!r}") from None
    if at.dim() != 1 or not bool((at >= 0).all()):
        raise ValueError(f"radii: wanted a list of numbers >= 0, got {radii!r}")
    return ((radius[:, None] >= at) & right[:, None]).double().mean(0)


def certificate_of(
    selected: Tensor,
    count: Tensor,
    n: int,
    alpha: float,
    family: int,
    noise: Noise,
    dim: int,
    classes: int | None = None,
) -> Certificate:
    """From counts; the bound is Clopper and Pearson's."""
    from .bounds import lower_bound

    each = alpha / family
    p = lower_bound(count, n, each)
    label = torch.where(p > 0.5, selected, ABSTAIN)
    return Certificate(label, selected, count, p, n, each, family, noise, dim, classes)
