"""The public op accumulate_."""

from __future__ import annotations

from torch import Tensor

from . import check, library
from .dispatch import resolve
from .run import run

_NAMES = ("total", "grad")


def accumulate_(
    total: Tensor,
    grad: Tensor,
    *,
    keep: float | Tensor = 1.0,
    weight: float | Tensor = 1.0,
    backend: str = "auto",
) -> Tensor:
    """Collects gradients in one buffer: total <- keep * total + weight * grad, in one pass.

    Of several models or transformed copies: weights for a mean, or (keep, weight) = (0, 1) for the samples that take
    over this gradient and (1, 0) for those that do not. Where keep is 0 the old total is not looked at, and where
    weight is 0 the gradient is not: a NaN there vanishes. The products and the sum are each rounded (no fused
    multiply-add): the same bits on every backend. A keep or weight counts as 0 where it is 0 in the computing type.

    Args:
        total: (B, ...), written in place.
        grad: as total: shape, dtype, device.
        keep: of either sign: a float or (B,).
        weight: likewise.

    Raises:
        TypeError, ValueError, BackendUnavailable: see fastattack.ops.
    """
    if library.traced(total):
        library.accumulate(total, grad, keep, weight, backend)
        return total
    images = check.images(_NAMES, total, grad)
    like = images[0]
    kept, share = check.per_sample(keep, "keep", like), check.per_sample(weight, "weight", like)
    run(resolve(like.device, backend).accumulate, _NAMES, images, (kept, share))
    return total


library.register(accumulate_)
