"""How good a field is, by what is known of the pair."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..guard import Rowwise
from .fields import check_field, least_determinant
from .overlap import check_labels, dice, labels_of, warp_labels
from .smoothness import spacings
from .truth import Truth


@dataclass(frozen=True, kw_only=True)
class Measures(Rowwise):
    """Of B fields, (B,) float64 each; None where the truth lacks what it takes.

    Attributes:
        field_error: distance of u from the true field, the mean over the mask, in mm; NaN where the mask is empty.
        tre: target registration error: distance of p + u(p) from where the landmark is, the mean over landmarks, in mm.
        dice: of the warped moving labels and the fixed ones, the mean over the labels (0 is the background) that are in
            either; NaN where there is none.
        folded: share of the voxels at which the field folds (`fields.folded`: more than central differences see).
        least_determinant: the least Jacobian determinant over the same one-sided differences: 0 or less if and only if
            the field folds. (By central differences, as often told, it can be above 0 although there are folds.)
    """

    field_error: Tensor | None = None
    tre: Tensor | None = None
    dice: Tensor | None = None
    folded: Tensor | None = None
    least_determinant: Tensor | None = None


def measure(field: Tensor, truth: Truth) -> Measures:
    """All that can be said of the fields; in float64, without gradients.

    Args:
        field: (B, d, *spatial), in voxels. truth: of the same B pairs; an empty Truth() leaves the folds.

    Raises:
        TypeError, ValueError: no finite field, no Truth, parts that do not fit the field.
    """
    check_field(field)
    _check_truth(truth)
    if not bool(field.isfinite().all()):
        raise ValueError("field: wanted finite displacements, got NaN or infinity")
    with torch.no_grad():
        u = field.detach().double()
        determinants = least_determinant(u).flatten(1)
        return Measures(
            field_error=None if truth.field is None else error_of_field(u, truth),
            tre=None if truth.landmarks is None else error_at_landmarks(u, truth),
            dice=_dice(u, truth) if truth.labels_moving is not None and truth.labels_fixed is not None else None,
            folded=(determinants <= 0).double().mean(1),
            least_determinant=determinants.amin(1),
        )


def error_of_field(field: Tensor, truth: Truth, *, softened: float = 0.0) -> Tensor:
    """Distance of the field from the true one in mm, the mean over the mask, (B,); NaN where the mask is empty.

    Args:
        field: (B, d, *spatial), in voxels.
        softened: mm; above 0 each distance x is sqrt(x² + softened²) - softened, which has a gradient at 0, too.

    Raises:
        TypeError, ValueError: the truth knows no field, or parts of it do not fit.
    """
    check_field(field)
    true = needed(truth, "field")
    if true.shape != field.shape:
        raise ValueError(f"truth.field: wanted the shape {tuple(field.shape)} of the field, got {tuple(true.shape)}")
    apart = _lengths(field.movedim(1, -1), true.movedim(1, -1), truth, field, softened)
    if truth.mask is None:
        return apart.flatten(1).mean(1)
    if tuple(truth.mask.shape) != (field.shape[0], 1, *field.shape[2:]):
        raise ValueError(
            f"truth.mask: wanted {(field.shape[0], 1, *field.shape[2:])} as the field is, got {tuple(truth.mask.shape)}"
        )
    counts = (truth.mask[:, 0] != 0).flatten(1)
    return torch.where(counts, apart.flatten(1), 0).sum(1) / counts.sum(1)


def error_at_landmarks(field: Tensor, truth: Truth, *, softened: float = 0.0) -> Tensor:
    """Distance of p + u(p) from where landmark p is in the moving image in mm, the mean over landmarks, (B,).

    Args:
        field: (B, d, *spatial), in voxels; interpolated linearly at p.
        softened: as for `error_of_field`.

    Raises:
        TypeError, ValueError: the truth knows no landmarks, or they do not fit.
    """
    places, there = needed(truth, "landmarks"), needed(truth, "landmarks_moved")
    moved = displacement_at(field, places, name="truth.landmarks")
    if there.shape != places.shape:
        raise ValueError(
            f"truth.landmarks_moved: wanted {tuple(places.shape)} as the landmarks are, got {tuple(there.shape)}"
        )
    return _lengths(places.to(moved) + moved, there, truth, field, softened).mean(1)


def displacement_at(field: Tensor, points: Tensor, *, name: str = "points") -> Tensor:
    """u(p) in voxels, interpolated linearly; (B, N, d), float32 at least, differentiable in both.

    Args:
        field: (B, d, *spatial). points: (B, N, d) in voxels, coordinate k along spatial axis k.

    Raises:
        TypeError, ValueError: no field, points of another shape, none, or (looked at on the CPU) points that are not on
            the grid, from 0 to n - 1 along each axis.
    """
    dims = check_field(field)
    if not isinstance(points, Tensor) or points.is_complex():
        raise TypeError(f"{name}: wanted a tensor (B, N, {dims}), got {type(points).__name__}")
    if points.dim() != 3 or points.shape[::2] != (field.shape[0], dims) or points.shape[1] == 0:
        raise ValueError(f"{name}: wanted ({field.shape[0]}, N, {dims}), N >= 1, got {tuple(points.shape)}")
    wide = torch.promote_types(field.dtype, torch.float32)
    last = torch.tensor([n - 1 for n in field.shape[2:]], device=field.device, dtype=wide)
    where = points.to(field.device, wide)
    if where.device.type == "cpu" and not bool(((where >= 0) & (where <= last)).all()):
        raise ValueError(f"{name}: wanted places on the grid, from 0 to {last.int().tolist()}, got some outside")
    # grid_sample counts from -1 to 1 and names the last axis first; the points lie along its last axis
    grid = (where / (last / 2).clamp(min=0.5) - 1).flip(-1).view(len(where), *[1] * (dims - 1), -1, dims)
    found = functional.grid_sample(field.to(wide), grid, padding_mode="border", align_corners=True)
    return found.flatten(2).mT


def needed(truth: Truth, part: str) -> Tensor:
    """A part of the truth.

    Raises:
        TypeError: no Truth, or the part is no tensor. ValueError: it is not known.
    """
    _check_truth(truth)
    found = getattr(truth, part)
    if found is None:
        known = [name for name, value in vars(truth).items() if value is not None]
        raise ValueError(f"truth.{part}: wanted a tensor, got None; known are {', '.join(known) or 'no parts'}")
    if not isinstance(found, Tensor):
        raise TypeError(f"truth.{part}: wanted a tensor, got {type(found).__name__}")
    return found


def _check_truth(truth: object) -> None:
    if not isinstance(truth, Truth):
        raise TypeError(f"truth: wanted a fastattack.registration.Truth, got {type(truth).__name__}")


def _lengths(a: Tensor, b: Tensor, truth: Truth, field: Tensor, softened: float) -> Tensor:
    """|a - b| in mm of vectors in voxels, (B, ..., d) to (B, ...)."""
    space = spacings(truth.spacing, field, "truth.spacing")
    apart = (a.to(space.dtype) - b.to(space)) * space.view(len(space), *[1] * (a.dim() - 2), -1)
    if softened:
        return (apart.square().sum(-1) + softened**2).sqrt() - softened
    length: Tensor = torch.linalg.vector_norm(apart, dim=-1)
    return length


def known_labels(field: Tensor, truth: Truth) -> tuple[Tensor, Tensor]:
    """Of the moving and of the fixed image, (B, 1, *spatial).

    Raises:
        TypeError, ValueError: the truth lacks either, or they do not fit the field.
    """
    moving, fixed = needed(truth, "labels_moving"), needed(truth, "labels_fixed")
    check_labels(moving, "truth.labels_moving", field=field)
    check_labels(fixed, "truth.labels_fixed", field=field)
    return moving, fixed


def _dice(field: Tensor, truth: Truth) -> Tensor:
    """(B,): the mean over the labels that a sample has; NaN where it has none."""
    moving, fixed = known_labels(field, truth)
    warped = warp_labels(moving, field)
    wanted = labels_of(warped, fixed)
    if not wanted:
        return field.new_full((len(field),), torch.nan)
    return dice(warped, fixed, labels=wanted).nanmean(1)
