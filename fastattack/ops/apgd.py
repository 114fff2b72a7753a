"""The public op apgd_step_."""

from __future__ import annotations

from torch import Tensor

from . import check, library
from .dispatch import resolve
from .layout import INNER_DIMS, collapse


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
    result, adv, previous = adv, check.as_tensor(adv, "adv"), check.as_tensor(previous, "previous")
    grad, origin = check.as_tensor(grad, "grad"), check.as_tensor(origin, "origin")
    check.require_images(adv, "adv")
    check.require_alike("adv", adv, ("previous", previous), ("grad", grad), ("origin", origin))
    check.require_norm(norm)
    radius = check.per_sample(eps, "eps", adv, least=0.0, down=norm == "linf")
    size = check.per_sample(step, "step", adv)
    weight = check.per_sample(momentum, "momentum", adv, least=0.0)
    box = check.bounds_of(bounds, adv.dtype)
    where = check.mask_of(mask, adv)
    table = resolve(adv.device, backend)
    if adv.numel() == 0:
        return result
    check.require_writable(adv, ("previous", previous), ("grad", grad), ("origin", origin))
    check.require_writable(previous, ("grad", grad), ("origin", origin), name="previous")
    walked = (adv, previous, grad, origin, adv if where is None else where)
    if adv.dim() > INNER_DIMS + 1 and collapse(*walked) is None:
        where = None if where is None else where.contiguous()
        a, p = adv.contiguous(), previous.contiguous()
        table.apgd_step(a, p, grad.contiguous(), origin.contiguous(), where, norm, radius, size, weight, box)
        adv.copy_(a)
        previous.copy_(p)
        return result
    table.apgd_step(adv, previous, grad, origin, where, norm, radius, size, weight, box)
    check.written(adv, previous)
    return result


library.register(apgd_step_)
