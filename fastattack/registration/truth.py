"""What is known of pairs of images: the true field, landmarks, labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor
from typing_extensions import Self

from ..guard import Rowwise


@dataclass(frozen=True, kw_only=True)
class Truth(Rowwise):
    """Of B pairs, whatever is known; None where it is not. As a target of attacks its parts are cut with the pairs.

    Attributes:
        field: (B, d, *spatial), in voxels, the field by which the moving image becomes the fixed one.
        mask: (B, 1, *spatial) bool, on the fixed grid, where errors of the field count; None: everywhere.
        landmarks: (B, N, d), positions in the fixed image, in voxels.
        landmarks_moved: (B, N, d), where they are in the moving image, in voxels.
        labels_moving, labels_fixed: (B, 1, *spatial) integers, 0 the background.
        spacing: (B, d) mm per voxel; None: 1.
        pair: (B, 2, *spatial), the images themselves, for losses of training that compare them.
    """

    field: Tensor | None = None
    mask: Tensor | None = None
    landmarks: Tensor | None = None
    landmarks_moved: Tensor | None = None
    labels_moving: Tensor | None = None
    labels_fixed: Tensor | None = None
    spacing: Tensor | None = None
    pair: Tensor | None = None

    def moved(self, move: Callable[[Any], Any]) -> Self:
        """Of pairs seen through a view that moves them: only the pair can be seen so.

        Raises:
            ValueError: something else is known. Arrows of a field, landmarks and labels are no image to be resampled,
                and a 2D field even has a pair's shape.
        """
        known = [
            f.name for f in fields(self) if f.name not in ("pair", "spacing") and getattr(self, f.name) is not None
        ]
        if known:
            raise ValueError(
                f"view: wanted one that leaves every voxel in its place (and says so: moves_target = False, as "
                f"fa.views.Noise) where the target has {', '.join(known)}"
            )
        return self.each(move)
