"""Registering images with any registration model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..guard import modules_of
from .fields import jacobian_determinant, require_floating, warp
from .harm import fields_of
from .measures import Measures, measure
from .overlap import check_labels, warp_labels
from .smoothness import spacings
from .truth import Truth

Registers = Callable[[Tensor], Tensor]
"""A registration model: pair (B, 2, *spatial) -> field (B, d, *spatial)."""


@dataclass(frozen=True, kw_only=True)
class Registered:
    """What came out for B pairs, on the device of the images.

    Attributes:
        warped: (B, 1, *spatial), the moving images on the fixed ones' grid.
        field: (B, d, *spatial), in voxels: warped(p) = moving(p + field(p)).
        determinant: (B, *spatial), of the Jacobian by central differences.
        labels_warped: (B, 1, *spatial) of the moving labels, where there are some.
        measures: ``folded`` (share of voxels) and ``least_determinant`` always; ``dice`` with labels of both.
        measures_before: the same of the images as they came.
    """

    warped: Tensor
    field: Tensor
    determinant: Tensor
    labels_warped: Tensor | None
    measures: Measures
    measures_before: Measures


def register(
    model: Registers,
    moving: Tensor,
    fixed: Tensor,
    *,
    spacing: Sequence[float] | None = None,
    labels_moving: Tensor | None = None,
    labels_fixed: Tensor | None = None,
) -> Registered:
    """The field that brings the moving images onto the fixed ones, and what is to be said of it.

    The model runs in eval mode, without gradients and on its own device, and is left as found. A field that folds is
    given as it is; ``measures.folded`` tells.

    Args:
        model: called as model(pair) -> field; `LLMMorph`, `Classical`, or any other.
        moving, fixed: (B, 1, *spatial) in [0, 1], on one grid, 2D or 3D.
        spacing: mm per voxel along each axis; None: 1.
        labels_moving, labels_fixed: (B, 1, *spatial) integers, 0 the background; the moving image's alone are warped.

    Raises:
        TypeError, ValueError: images of different shapes, of another dimension than the model's, not in [0, 1], or NaN;
            labels that do not fit; a model that gives no field of their shape. The message names it.
        ArithmeticError: a field with NaN or infinity.
    """
    _check_images(moving, fixed)
    dims = moving.dim() - 2
    if getattr(model, "dims", dims) != dims:
        raise ValueError(f"model: wanted one for {dims}D images {tuple(moving.shape)}, got one for {model.dims}D")  # type: ignore[attr-defined]
    for name, labels in (("labels_moving", labels_moving), ("labels_fixed", labels_fixed)):
        if labels is not None and check_labels(labels, name).shape != moving.shape:
            raise ValueError(f"{name}: wanted {tuple(moving.shape)} as the images are, got {tuple(labels.shape)}")
    if labels_fixed is not None and labels_moving is None:
        raise ValueError("labels_moving: wanted those of the moving image beside labels_fixed, got None")
    field = _field_of(model, torch.cat([moving, fixed], 1))
    truth = Truth(
        labels_moving=labels_moving,
        labels_fixed=labels_fixed,
        spacing=None if spacing is None else spacings(spacing, field).expand(len(field), -1),
    )
    return Registered(
        warped=warp(moving, field.to(moving.dtype)),
        field=field,
        determinant=jacobian_determinant(field),
        labels_warped=None if labels_moving is None else warp_labels(labels_moving, field),
        measures=measure(field, truth),
        measures_before=measure(torch.zeros_like(field), truth),
    )


def _field_of(model: Registers, pair: Tensor) -> Tensor:
    modules = modules_of(model)
    tensors = [p for module in modules for p in module.parameters(recurse=False)]
    where = tensors[0].device if tensors else pair.device
    field = fields_of(model, pair.to(where))
    return field.to(pair.device, torch.promote_types(field.dtype, torch.float32))


def _check_images(moving: Any, fixed: Any) -> None:
    for name, image in (("moving", moving), ("fixed", fixed)):
        require_floating(image, name)
        if image.dim() not in (4, 5) or image.shape[1] != 1 or not image.numel():
            raise ValueError(f"{name}: wanted (B, 1, H, W) or (B, 1, D, H, W), got {tuple(image.shape)}")
        low, high = float(image.min()), float(image.max())
        if not (low >= 0 and high <= 1):  # NaN too
            raise ValueError(
                f"{name}: wanted grey values in [0, 1] (fastattack.registration.normalise), got {low:g} to {high:g}"
            )
    if moving.shape != fixed.shape:
        raise ValueError(f"moving: wanted the shape {tuple(fixed.shape)} that fixed has, got {tuple(moving.shape)}")
