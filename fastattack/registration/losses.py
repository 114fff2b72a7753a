"""What the training of a registration model brings down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..training.config import require_number
from .fields import check_field, warp
from .measures import known_labels, needed
from .overlap import check_wanted, one_hot, soft_dice
from .similarity import mind_ssc
from .smoothness import bending_energy, gradient_penalty
from .truth import Truth

WEIGHTS = ("smoothness", "bending", "supervised", "overlap")


@dataclass(frozen=True, kw_only=True)
class RegistrationLoss:
    """A weighted sum, called as loss(field, truth), one value for each pair, (B,), in float32 at least.

    Without a true field and without labels: a distance of the warped moving image from the fixed one, and a price for
    rough fields. With a true field or labels these may count too, or alone (``similarity=None``).

    Attributes:
        similarity: (moving as warped, fixed) -> (B,), smaller is more alike: `mind_ssc()`, `nmi()`,
            `local_correlation()` or any such function. Compares the images in truth.pair. None: they do not count.
        smoothness: weight of `gradient_penalty`.
        bending: weight of `bending_energy`, in mm².
        supervised: weight of |u - u_true|², in voxels², the mean over truth.mask (everywhere without one).
        overlap: weight of 1 - soft Dice of the warped moving labels and the fixed ones.
        labels: those that ``overlap`` counts.

    Raises:
        TypeError, ValueError: a weight below 0, nothing that counts but smoothness, overlap without labels; when called
            no field, or a truth that lacks what counts (it is named).
    """

    similarity: Callable[[Tensor, Tensor], Tensor] | None = field(default_factory=mind_ssc)
    smoothness: float = 0.05
    bending: float = 0.0
    supervised: float = 0.0
    overlap: float = 0.0
    labels: Sequence[int] = ()

    def __post_init__(self) -> None:
        for name in WEIGHTS:
            value = require_number(getattr(self, name), name)
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name}: wanted a finite weight >= 0, got {value!r}")
            object.__setattr__(self, name, value)
        if self.similarity is not None and (not callable(self.similarity) or isinstance(self.similarity, type)):
            raise TypeError(f"similarity: wanted a function of two images, such as mind_ssc(), got {self.similarity!r}")
        if self.similarity is None and not (self.supervised or self.overlap):
            raise ValueError("similarity: wanted one, or a weight above 0 for supervised or overlap, got None")
        if self.overlap:
            object.__setattr__(self, "labels", tuple(check_wanted(self.labels)))

    def __call__(self, field: Tensor, truth: Truth) -> Tensor:
        check_field(field)
        wide = field.to(torch.promote_types(field.dtype, torch.float32))
        spacing = truth.spacing if isinstance(truth, Truth) else None
        terms = []
        if self.similarity is not None:
            pair = needed(truth, "pair").to(wide.dtype)
            terms.append(self.similarity(warp(pair[:, :1], wide), pair[:, 1:]))
        if self.smoothness:
            terms.append(self.smoothness * gradient_penalty(wide, spacing))
        if self.bending:
            terms.append(self.bending * bending_energy(wide, spacing))
        if self.supervised:
            terms.append(self.supervised * _square_error(wide, truth))
        if self.overlap:
            terms.append(self.overlap * (1 - self._overlap(wide, truth)))
        return torch.stack(terms).sum(0)

    def _overlap(self, field: Tensor, truth: Truth) -> Tensor:
        """(B,): Dice; 1, without a gradient, of a sample that has none of the labels."""
        moving, fixed = (one_hot(labels, self.labels, field.dtype) for labels in known_labels(field, truth))
        warped = warp(moving, field)
        none = (warped.detach().flatten(1).sum(1) + fixed.flatten(1).sum(1) == 0).view(-1, *[1] * (fixed.dim() - 1))
        return soft_dice(torch.where(none, 1.0, warped), torch.where(none, 1.0, fixed))


def _square_error(field: Tensor, truth: Truth) -> Tensor:
    """(B,): the mean over the mask; 0 where that is empty."""
    true = needed(truth, "field").to(field.dtype)
    if true.shape != field.shape:
        raise ValueError(f"truth.field: wanted the shape {tuple(field.shape)} of the field, got {tuple(true.shape)}")
    squares = (field - true).square().sum(1, keepdim=True)
    counts = torch.ones_like(squares) if truth.mask is None else (truth.mask != 0).to(squares)
    return (squares * counts).flatten(1).sum(1) / counts.flatten(1).sum(1).clamp(min=1)
