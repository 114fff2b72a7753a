"""The l1 ball: the public op l1_step_, and the ways to project and to start that know every norm."""

from __future__ import annotations

from torch import Tensor

from . import check, library
from .backend import Backend, Bounds, Scalar
from .dispatch import resolve
from .run import run

_NAMES = ("adv", "grad", "origin")


def project(
    table: Backend, adv: Tensor, origin: Tensor, mask: Tensor | None, norm: str, eps: Scalar, bounds: Bounds
) -> None:
    """table.project for every norm that project_ takes, on checked tensors."""
    if norm == "l1":
        table.l1_project(adv, origin, mask, eps, bounds)
    else:
        table.project(adv, origin, mask, norm, eps, bounds)


def random_start(
    table: Backend, adv: Tensor, origin: Tensor, norm: str, eps: Scalar, bounds: Bounds, seed: int,
    sample_ids: Tensor | None, mask: Tensor | None = None,
) -> None:  # fmt: skip
    """table.random_start for every norm that random_start_ takes, on checked tensors. ``mask`` is for "l1" alone.

    "l1": uniform in the cube of half-width eps, then projected onto ball and bounds together.
    """
    if norm == "l1":
        table.random_start(adv, origin, "linf", eps, check.UNBOUNDED, seed, sample_ids)
        table.l1_project(adv, origin, mask, eps, bounds)
    else:
        table.random_start(adv, origin, norm, eps, bounds, seed, sample_ids)


def share_of(keep: float | Tensor, like: Tensor) -> Scalar:
    """keep as a checked Scalar in (0, 1]."""
    share = check.positive(keep, "keep", like)
    largest = share if isinstance(share, float) else max(share.tolist(), default=1.0)
    if largest > 1:
        raise ValueError(f"keep: wanted 0 < keep <= 1, got {largest}")
    return share


def l1_step_(
    adv: Tensor,
    grad: Tensor,
    origin: Tensor,
    *,
    eps: float | Tensor,
    step: float | Tensor,
    keep: float | Tensor = 0.05,
    bounds: tuple[float, float] | None = None,
    mask: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """One sparse ascent step in l1: adv <- P(adv + step * direction), P onto sum |adv - origin| <= eps and the bounds.

    The direction is sign(grad) / count on the entries whose |grad| is at least the k-th largest of the sample,
    k = max(1, ceil(keep * d)) of its d unmasked entries, and 0 elsewhere (SLIDE, Tramer & Boneh, arXiv 1904.13000).
    Ties all move; an entry whose gradient is zero never does; ``count`` is how many move, so that the step has the
    length |step| in l1. A tiny keep moves one entry: the steepest step. A negative step descends. P is that of
    project_: exact, onto ball and bounds together (Croce & Hein, arXiv 2103.01208). A NaN in the gradient is the
    largest entry of all, and makes the sample NaN wherever the mask lets it move.

    Args:
        adv: (B, ...), written in place.
        grad: as adv: shape, dtype, device.
        origin: as adv; the centre of the ball.
        eps: radius of the ball: a sum over the pixels, on the scale of the images.
        step: l1 length of the step, on the same scale.
        keep: share of the entries that move, 0 < keep <= 1: a float or a (B,) tensor.

    Raises:
        TypeError, ValueError, BackendUnavailable: see fastattack.ops.
    """
    if library.traced(adv):
        library.l1_step(adv, grad, origin, eps, step, keep, bounds, mask, backend)
        return adv
    images = check.images(_NAMES, adv, grad, origin)
    like = images[0]
    radius = check.per_sample(eps, "eps", like, least=0.0)
    size, share = check.per_sample(step, "step", like), share_of(keep, like)
    box, where = check.bounds_of(bounds, like.dtype), check.mask_of(mask, like)
    run(resolve(like.device, backend).l1_step, _NAMES, images, (where, radius, size, share, box))
    return adv
