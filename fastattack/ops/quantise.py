"""The public ops quantise_ and grid_gap: images that an integer file holds to the bit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import check, library
from .dispatch import resolve
from .run import run

_NAMES = ("adv", "origin")
BITS = (8, 16)
DTYPES = (torch.float32, torch.float64)


def quantise_(
    adv: Tensor,
    origin: Tensor,
    *,
    eps: float | Tensor,
    bits: int = 8,
    norm: str = "linf",
    bounds: tuple[float, float] | None = (0.0, 1.0),
    mask: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Moves every pixel to the nearest allowed point k / (2^bits - 1), so that a PNG file holds the image to the bit.

    The value is the correctly rounded quotient in the dtype of adv, as fa.images.read_image gives it for float32. Of
    two points equally near the lower is taken. Allowed are points within the bounds (and so within [0, 1]) for which

    - "linf": |q - origin| <= eps, in the dtype, without a tolerance;
    - "l2", "l1": |q - origin| <= |adv - origin| for the pixel itself, so that every norm of the perturbation can only
      shrink. ``eps`` is not used: an adv inside the ball stays inside, one outside is not brought in.

    A pixel without an allowed point becomes NaN, never a point outside. For "linf" there is one in every pixel where
    eps >= ``grid_gap(origin)`` and origin lies in the bounds; for "l2" and "l1" where origin is on the grid.

    Args:
        adv: (B, ...) float32 or float64, written in place.
        origin: as adv: shape, dtype, device; the centre of the ball.
        eps: radius on the scale of the images, >= 0, a float or (B,).
        bits: 8 or 16.
        norm: "linf", "l2" or "l1".
        bounds: (low, high), or None for (0, 1).
        mask: broadcastable to adv; 0 keeps origin, to the bit.

    Raises:
        TypeError: a dtype without the grid: in float16 and bfloat16 two neighbours of it can be one number.
        TypeError, ValueError, BackendUnavailable: see fastattack.ops.
    """
    if library.traced(adv):
        library.quantise(adv, origin, eps, bits, norm, bounds, mask, backend)
        return adv
    images = check.images(_NAMES, adv, origin)
    like = images[0]
    _require_grid(like, "adv", bits)
    check.require_norm(norm, check.BALLS)
    radius = check.per_sample(eps, "eps", like, least=0.0, down=True)
    low, high = check.bounds_of(bounds, like.dtype)
    box, where = (max(low, 0.0), min(high, 1.0)), check.mask_of(mask, like)
    run(resolve(like.device, backend).quantise, _NAMES, images, (where, norm, radius, bits, box))
    return adv


def grid_gap(image: Tensor, *, bits: int = 8) -> Tensor:
    """The largest distance of a pixel to the grid k / (2^bits - 1), k = 0 .. 2^bits - 1, for each sample.

    0 says that an integer file holds the sample to the bit; quantise_(..., norm="linf") finds a point for every pixel
    where eps is at least the gap of origin. One look before an attack, in plain torch: it needs temporaries.

    Args:
        image: (B, ...) float32 or float64.
        bits: 8 or 16.

    Returns:
        (B,) in the dtype of image; NaN for a sample that holds one.

    Raises:
        TypeError, ValueError: see fastattack.ops.
    """
    image = check.images(("image",), image)[0].detach()
    _require_grid(image, "image", bits)
    if image.shape[0] == 0:
        return image.new_empty(0)
    levels = torch.full((), 2**bits - 1, dtype=image.dtype, device=image.device)  # CUDA multiplies by 1 / a number
    k = (image.clamp(0, 1) * levels).round()
    gaps = [(image - (k + side).clamp(0, 2**bits - 1) / levels).abs() for side in (-1, 0, 1)]
    nearest: Tensor = torch.minimum(torch.minimum(gaps[0], gaps[1]), gaps[2])
    return nearest.reshape(image.shape[0], -1).amax(1)


def _require_grid(image: Tensor, name: str, bits: Any) -> None:
    if image.dtype not in DTYPES:
        got = str(image.dtype).removeprefix("torch.")
        raise TypeError(
            f"{name}: wanted float32 or float64, got {got}, which does not hold the points k / (2^bits - 1)"
        )
    if isinstance(bits, bool) or bits not in BITS:
        raise ValueError(f"bits: wanted 8 or 16, got {bits!r}")


library.register(quantise_)
