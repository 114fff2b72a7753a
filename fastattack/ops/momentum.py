"""The public op momentum_step_."""

from __future__ import annotations

from torch import Tensor

from . import check, library
from .dispatch import resolve
from .layout import INNER_DIMS, collapse


def momentum_step_(
    adv: Tensor,
    momentum: Tensor,
    grad: Tensor,
    origin: Tensor,
    *,
    norm: str,
    eps: float | Tensor,
    step: float | Tensor,
    decay: float | Tensor = 1.0,
    bounds: tuple[float, float] | None = None,
    mask: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """One step along the momentum of the gradients (MI-FGSM; Dong et al., arXiv 1710.06081, eq. 6-7):

        momentum <- decay * momentum + grad / mean|grad|
        adv      <- P(adv + step * direction(momentum))

    The direction and the projection P are those of `pgd_step_`: sign for "linf", momentum / |momentum|_2 for "l2"; the
    same guarantees hold. A negative step descends.

    The paper divides by |grad|_1; the mean over the elements of a sample, as the usual implementations take it, differs
    by their number alone, which changes no direction and keeps the digits of a float16 momentum. (A float16 momentum
    beyond 65504, which takes a gradient of a few pixels in a large image, stays there.) A gradient of zeros adds
    nothing, and neither does a pixel that ``mask`` holds back: its grad counts as 0.

    Args:
        adv: (B, ...), written in place.
        momentum: as adv: shape, dtype, device; written in place. Zeros before the first step.
        grad: as adv.
        origin: as adv; the centre of the ball.
        decay: what is kept of the old momentum, >= 0: a float or (B,). 0 makes this `pgd_step_`.

    Raises:
        TypeError, ValueError, BackendUnavailable: see fastattack.ops.
    """
    if library.traced(adv):
        library.momentum_step(adv, momentum, grad, origin, norm, eps, step, decay, bounds, mask, backend)
        return adv
    result, adv = adv, check.as_tensor(adv, "adv")
    momentum, grad = check.as_tensor(momentum, "momentum"), check.as_tensor(grad, "grad")
    origin = check.as_tensor(origin, "origin")
    check.require_images(adv, "adv")
    check.require_alike("adv", adv, ("momentum", momentum), ("grad", grad), ("origin", origin))
    check.require_norm(norm)
    radius = check.per_sample(eps, "eps", adv, least=0.0, down=norm == "linf")
    size = check.per_sample(step, "step", adv)
    kept = check.per_sample(decay, "decay", adv, least=0.0)
    box = check.bounds_of(bounds, adv.dtype)
    where = check.mask_of(mask, adv)
    table = resolve(adv.device, backend)
    if adv.numel() == 0:
        return result
    check.require_writable(adv, ("momentum", momentum), ("grad", grad), ("origin", origin))
    check.require_writable(momentum, ("grad", grad), ("origin", origin), name="momentum")
    given = () if where is None else (where,)
    if adv.dim() > INNER_DIMS + 1 and collapse(adv, momentum, grad, origin, *given, keep_order=True) is None:
        a, m, g, o = (t.contiguous() for t in (adv, momentum, grad, origin))
        where = None if where is None else where.contiguous()
        table.momentum_step(a, m, g, o, where, norm, radius, size, kept, box)
        adv.copy_(a)
        momentum.copy_(m)
        return result
    table.momentum_step(adv, momentum, grad, origin, where, norm, radius, size, kept, box)
    check.written(adv, momentum)
    return result


library.register(momentum_step_)
