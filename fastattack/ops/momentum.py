"""The public op momentum_step_."""

from __future__ import annotations

from torch import Tensor

from . import check, library
from .dispatch import resolve
from .run import run

_NAMES = ("adv", "momentum", "grad", "origin")


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
    images = check.images(_NAMES, adv, momentum, grad, origin)
    like = images[0]
    check.require_norm(norm)
    radius = check.per_sample(eps, "eps", like, least=0.0, down=norm == "linf")
    size = check.per_sample(step, "step", like)
    kept = check.per_sample(decay, "decay", like, least=0.0)
    box, where = check.bounds_of(bounds, like.dtype), check.mask_of(mask, like)
    kernel = resolve(like.device, backend).momentum_step
    run(kernel, _NAMES, images, (where, norm, radius, size, kept, box), writes=2)
    return adv


library.register(momentum_step_)
