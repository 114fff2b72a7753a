"""The public op apgd_step_."""

from __future__ import annotations

from torch import Tensor

from . import check, library
from .dispatch import resolve
from .run import run

_NAMES = ("adv", "previous", "grad", "origin")


def apgd_step_(
    adv: Tensor,
    previous: Tensor,
    grad: Tensor,
    origin: Tensor,
    *,
    norm: str,
    eps: float | Tensor,
    step: float | Tensor,
    momentum: float | Tensor = 0.75,
    bounds: tuple[float, float] | None = None,
    mask: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """One step of APGD with momentum (Croce & Hein, arXiv 2003.01690, algorithm 1, lines 7 and 8)::

        z = P(adv + step * direction(grad))
        new = P(adv + momentum * (z - adv) + (1 - momentum) * (adv - previous))
        previous <- adv;  adv <- new

    P projects onto |. - origin|_p <= eps, then onto the bounds, as `pgd_step_` does: the ball holds in the computing
    type without a tolerance. The direction is sign(grad) for "linf", grad / |grad|_2 for "l2". A negative step
    descends. Where the momentum is 1 (the first iteration), new is z and ``previous`` is not looked at; for "linf"
    that is `pgd_step_` to the bit. "l2" is exact to 2^-21 of eps beside the rounding of the result, towards the inside.

    Args:
        adv: (B, ...), written in place.
        previous: as adv: shape, dtype, device; written in place.
        grad: as adv.
        origin: as adv; the centre of the ball.
        momentum: weight of the new direction, >= 0: a number or (B,).
        mask: 0 sets adv and previous to origin.

    Raises:
        TypeError, ValueError, BackendUnavailable: see fastattack.ops.
    """
    if library.traced(adv):
        library.apgd_step(adv, previous, grad, origin, norm, eps, step, momentum, bounds, mask, backend)
        return adv
    images = check.images(_NAMES, adv, previous, grad, origin)
    like = images[0]
    check.require_norm(norm)
    radius = check.per_sample(eps, "eps", like, least=0.0, down=norm == "linf")
    size = check.per_sample(step, "step", like)
    weight = check.per_sample(momentum, "momentum", like, least=0.0)
    box, where = check.bounds_of(bounds, like.dtype), check.mask_of(mask, like)
    kernel = resolve(like.device, backend).apgd_step
    run(kernel, _NAMES, images, (where, norm, radius, size, weight, box), writes=2)
    return adv


library.register(apgd_step_)
