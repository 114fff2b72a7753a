"""What an attack on a registration model climbs: the damage that its field does, by what is known of the pair.

Each is made before use, ``fa.objectives.registration.field_error()``, and called with (field, truth): the model's
output (B, d, *spatial) in voxels and a `fastattack.registration.Truth`, the attack's target. Without a
truth `fa.registration.attack_registration` measures from the model's own field of the unattacked pair. The objectives
that compare images, `fa.objectives.deviation` among them, take tensors and no Truth: as a target give the field itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..ops.check import is_number
from ..registration.fields import check_field, least_determinant, warp
from ..registration.measures import error_at_landmarks, error_of_field, known_labels
from ..registration.overlap import check_wanted, labels_of, one_hot, soft_dice
from ..registration.truth import Truth
from .base import require_positive, sample_mean, widened

__all__ = ["field_error", "folding", "overlap", "target_registration_error"]


def _field(output: Any) -> Tensor:
    check_field(output, "model")
    return widened(output)


@dataclass(frozen=True, kw_only=True)
class field_error:
    """Distance of the field from the true one in mm, the mean over the truth's mask: `Measures.field_error`.

    Each distance x is sqrt(x² + softness²) - softness: less than x by the softness at most, with a gradient of 0 rather
    than none where the field is exact.

    Args:
        softness: mm.

    Raises:
        TypeError, ValueError: no field, or a truth that knows no field or does not fit it.
    """

    softness: float = 1e-3

    def __post_init__(self) -> None:
        require_positive(self.softness, "softness")

    def __call__(self, output: Any, target: Truth) -> Tensor:
        return error_of_field(_field(output), target, softened=self.softness)


@dataclass(frozen=True, kw_only=True)
class target_registration_error:
    """Distance of p + u(p) from where landmark p is in the moving image in mm, the mean: `Measures.tre`.

    The field is interpolated linearly at p, so only the voxels around landmarks have a gradient.

    Args:
        softness: as for `field_error`.

    Raises:
        TypeError, ValueError: no field, or a truth that knows no landmarks or whose landmarks do not fit.
    """

    softness: float = 1e-3

    def __post_init__(self) -> None:
        require_positive(self.softness, "softness")

    def __call__(self, output: Any, target: Truth) -> Tensor:
        return error_at_landmarks(_field(output), target, softened=self.softness)


@dataclass(frozen=True, kw_only=True)
class overlap:
    """1 - Dice of the moving labels as warped and the fixed ones, from 0 to 1, the mean over the labels.

    Each label is warped as an image of zeros and ones, linearly, so that there is a gradient (at the edges of labels
    alone). A label counts where either map has it, and a sample's mean is over those that it has; NaN where none is.

    Args:
        labels: those that count; None: all but 0, the background. Naming them spares a search at each step, for which a
            device would be waited.

    Raises:
        TypeError, ValueError: no field, or a truth without labels of both images.
    """

    labels: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.labels is not None:
            check_wanted(self.labels)

    def __call__(self, output: Any, target: Truth) -> Tensor:
        field = _field(output)
        moving, fixed = known_labels(field, target)
        wanted = self.labels or labels_of(moving, fixed)
        if not wanted:
            raise ValueError("truth.labels_moving: wanted a label other than 0, the background, got none")
        warped = warp(one_hot(moving, wanted, field.dtype), field)
        return 1 - soft_dice(warped, one_hot(fixed, wanted, field.dtype))


@dataclass(frozen=True, kw_only=True)
class folding:
    """How far the field is folded: the mean over voxels of max(margin - least determinant, 0).

    The least determinant of a voxel (`fastattack.registration.fields.least_determinant`) is 1 where nothing is
    stretched, 0 or less where the field folds. A field whose determinants are all above the margin has no gradient. It
    asks nothing of the truth; any target will do.

    Args:
        margin: with 0 folds alone count; with 1, the default, all compression does, which leads to them.

    Raises:
        TypeError, ValueError: no field, or an axis of fewer than two voxels.
    """

    margin: float = 1.0

    def __post_init__(self) -> None:
        if not is_number(self.margin):
            raise ValueError(f"margin: wanted a finite number, got {self.margin!r}")

    def __call__(self, output: Any, target: Any) -> Tensor:
        return sample_mean((self.margin - least_determinant(_field(output))).relu())
