"""Displacement fields: warping, composition, exponential, Jacobian determinant.

A field u is a tensor (B, d, *spatial) with d = 2 or 3 spatial axes, in voxels: channel k moves along spatial axis k (in
the order of the tensor: rows before columns). It pulls: warped(p) = image(p + u(p)), on the grid of the fixed image.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

_MODES = {"linear": "bilinear", "nearest": "nearest"}
_PADDINGS = ("border", "zeros")


def check_field(field: Tensor, name: str = "field") -> int:
    """The number of spatial axes, 2 or 3.

    Raises:
        TypeError, ValueError: something else than a floating tensor (B, d, *spatial) with d spatial axes.
    """
    if not isinstance(field, Tensor):
        raise TypeError(f"{name}: wanted a tensor (B, d, *spatial), got {type(field).__name__}")
    dims = field.dim() - 2
    if dims not in (2, 3) or field.shape[1] != dims or not field.is_floating_point():
        raise ValueError(
            f"{name}: wanted a floating tensor (B, 2, H, W) or (B, 3, D, H, W), one channel for each spatial axis, got "
            f"{tuple(field.shape)} {field.dtype}"
        )
    return dims


def require_floating(value: Tensor, name: str) -> None:
    """Raises TypeError, which says the tensor's dtype, or what it is in place of one."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        came = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name}: wanted a floating tensor, got {came}")


def _check_image(image: Tensor, field: Tensor, name: str = "image") -> None:
    require_floating(image, name)
    if image.dim() != field.dim() or image.shape[0] != field.shape[0] or image.shape[2:] != field.shape[2:]:
        raise ValueError(
            f"{name}: wanted ({field.shape[0]}, C, {', '.join(map(str, field.shape[2:]))}) as the field is, got "
            f"{tuple(image.shape)}"
        )


def identity(shape: torch.Size | tuple[int, ...], *, like: Tensor) -> Tensor:
    """(1, d, *shape): the position of every voxel, in voxels."""
    axes = [torch.arange(n, device=like.device, dtype=like.dtype) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def warp(image: Tensor, field: Tensor, *, mode: str = "linear", padding: str = "border") -> Tensor:
    """image(p + u(p)) by torch's grid_sample; differentiable in both.

    Args:
        image: (B, C, *spatial). field: (B, d, *spatial), in voxels.
        mode: "linear", or "nearest" for labels (no gradient to the field).
        padding: what lies outside: "border", the nearest voxel, or "zeros".

    Where a displacement is NaN or infinite the result is NaN.

    Raises:
        TypeError, ValueError: shapes that do not fit, an unknown mode or padding.
    """
    check_field(field)
    _check_image(image, field)
    if mode not in _MODES:
        raise ValueError(f"mode: wanted 'linear' or 'nearest', got {mode!r}")
    if padding not in _PADDINGS:
        raise ValueError(f"padding: wanted 'border' or 'zeros', got {padding!r}")
    wide = torch.promote_types(torch.promote_types(image.dtype, field.dtype), torch.float32)
    shape = field.shape[2:]
    places = identity(shape, like=field.to(wide)) + field.to(wide)
    half = torch.tensor([max(n - 1, 1) / 2 for n in shape], device=field.device, dtype=wide)
    # grid_sample counts from -1 to 1 and names the last axis first
    grid = (places.movedim(1, -1) / half - 1).flip(-1)
    out = functional.grid_sample(
        image.to(wide), grid.nan_to_num(), mode=_MODES[mode], padding_mode=padding, align_corners=True
    )  # NaN would be made a finite grey value, and a grid of it ends the process in torch's backward pass
    return (out + (0 * field.to(wide)).sum(1, keepdim=True)).to(image.dtype)


def compose(first: Tensor, second: Tensor) -> Tensor:
    """The field that warps as ``first`` and then ``second`` do: second(p) + first(p + second(p)).

    warp(warp(image, first), second) = warp(image, compose(first, second)), but for the interpolation.

    Raises:
        TypeError, ValueError: fields of different shapes.
    """
    check_field(first, "first")
    check_field(second, "second")
    _check_image(first, second, "first")
    return second + warp(first, second)


def exponential(velocity: Tensor, *, steps: int = 7) -> Tensor:
    """The displacement at time 1 of the flow along a stationary velocity: scaling and squaring (Arsigny et al., 2006).

    velocity / 2^steps is composed with itself ``steps`` times. exponential(-velocity) is the inverse.

    Args:
        velocity: (B, d, *spatial), in voxels. steps: 0 gives the velocity itself.

    Raises:
        TypeError, ValueError: no field, or steps that are no whole number >= 0.
    """
    check_field(velocity, "velocity")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise ValueError(f"steps: wanted a whole number >= 0, got {steps!r}")
    field = velocity * 0.5**steps
    for _ in range(steps):
        field = compose(field, field)
    return field


def jacobian_determinant(field: Tensor) -> Tensor:
    """(B, *spatial): the determinant of d(p + u)/dp, central differences inside, one-sided ones at the edges.

    1 where nothing is stretched, below 0 where the field folds; but see `folded`, which misses no fold.

    Raises:
        TypeError, ValueError: no field, or an axis of fewer than two voxels.
    """
    dims = _check_slopes(field)
    slopes = torch.gradient(field, dim=list(range(2, 2 + dims)))
    return _determinant(torch.stack(slopes, 2))


def folded(field: Tensor) -> Tensor:
    """(B, *spatial) bool: voxels at which some combination of one-sided differences has a determinant <= 0.

    Central differences skip the voxel itself, so that a field may fold there and look smooth; the 2^d combinations of
    forward and backward differences do not (Liu et al., arXiv 2212.06060, where all must be above 0). They are the
    triangles, or tetrahedra, between a voxel and its neighbours along the axes; of a cell in 3D the two tetrahedra
    between every other corner count too, at its first voxel. So what is not folded keeps the orientation of every
    triangle, or tetrahedron, into which a cell is cut. (In 3D the trilinear map may still fold inside of one.)

    Raises:
        TypeError, ValueError: as for `jacobian_determinant`.
    """
    return least_determinant(field) <= 0


def least_determinant(field: Tensor) -> Tensor:
    """(B, *spatial): what `folded` compares with 0; differentiable, so that an objective may push it below.

    Raises:
        TypeError, ValueError: as for `jacobian_determinant`.
    """
    dims = _check_slopes(field)
    slopes = [_one_sided(field, 2 + k) for k in range(dims)]  # of each axis: forward, backward
    found = [_determinant(torch.stack(chosen, 2)) for chosen in product(*slopes)]
    if dims == 3:
        found += [functional.pad(inner, [0, 1] * 3, value=torch.inf) for inner in _inner_determinants(field)]
    return torch.stack(found).amin(0)


def _inner_determinants(field: Tensor) -> Iterator[Tensor]:
    """(B, D-1, H-1, W-1) twice: how the tetrahedra between every other corner of a cell change their volume."""
    whole = field + identity(field.shape[2:], like=field)

    def corner(*offsets: int) -> Tensor:
        part = whole
        for axis, offset in enumerate(offsets, 2):
            part = part.narrow(axis, offset, field.shape[axis] - 1)
        return part

    for first, *others in (((0, 0, 0), (1, 1, 0), (1, 0, 1), (0, 1, 1)), ((1, 1, 1), (0, 0, 1), (0, 1, 0), (1, 0, 0))):
        edges = torch.stack([corner(*other) - corner(*first) for other in others], 2)
        still = torch.tensor([[o - f for o, f in zip(other, first, strict=True)] for other in others]).double()
        yield _determinant_of(edges) / float(torch.linalg.det(still))


def _check_slopes(field: Tensor) -> int:
    dims = check_field(field)
    if min(field.shape[2:]) < 2:
        raise ValueError(f"field: wanted two voxels at least along each axis, got {tuple(field.shape[2:])}")
    return dims


def _one_sided(field: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Forward and backward differences; at an edge the one that is there stands for both."""
    steps = field.diff(dim=axis)
    last = steps.narrow(axis, steps.shape[axis] - 1, 1)
    first = steps.narrow(axis, 0, 1)
    return torch.cat([steps, last], axis), torch.cat([first, steps], axis)


def _determinant(slopes: Tensor) -> Tensor:
    """Of identity + slopes; slopes (B, d, d, *spatial), [:, i, k] = du_i/dp_k. Written out: torch's goes by LU."""
    dims = slopes.shape[1]
    one = torch.eye(dims, device=slopes.device, dtype=slopes.dtype)
    return _determinant_of(slopes + one.view(1, dims, dims, *[1] * dims))


def _determinant_of(matrices: Tensor) -> Tensor:
    """(B, d, d, *spatial) to (B, *spatial)."""
    rows = [row.unbind(1) for row in matrices.unbind(1)]
    if len(rows) == 2:
        return rows[0][0] * rows[1][1] - rows[0][1] * rows[1][0]
    a, b, c = rows
    return (
        a[0] * (b[1] * c[2] - b[2] * c[1])
        - a[1] * (b[0] * c[2] - b[2] * c[0])
        + a[2] * (b[0] * c[1] - b[1] * c[0])
    )  # fmt: skip
