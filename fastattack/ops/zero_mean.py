"""The public ops zero_mean_step_ and project_zero_mean_: perturbations of mean 0 in an l2 ball."""

from __future__ import annotations

from torch import Tensor

from . import check, library
from .dispatch import resolve
from .run import run


def zero_mean_step_(
    adv: Tensor, grad: Tensor, origin: Tensor, *, eps: float | Tensor, step: float | Tensor, backend: str = "auto"
) -> Tensor:
    """One step of ObsAtk (arXiv 2201.04397): adv <- P(adv + step * g / |g|_2) with g = grad - mean(grad).

    P is the Euclidean projection onto { y' : |y' - origin|_2 <= eps, mean(y' - origin) = 0 } of each sample: the mean
    is taken off, then the perturbation is scaled back. A negative step descends; a constant gradient leaves the
    projection alone.

    Each pixel is rounded to the storage type towards its origin, so that the ball holds as for pgd_step_; the mean is 0
    up to that: |mean(adv - origin)| <= u mean(|adv| + |origin|) with u = 2^-22 (float32), 2^-51 (float64), 2^-10
    (float16) or 2^-7 (bfloat16), and far below it where the signs of the perturbation balance. In float64 the rounding
    of the sums can add to that: up to 1e-12 of the rms where one pixel is an outlier.

    Args:
        adv: (B, ...), written in place.
        grad: as adv: shape, dtype, device.
        origin: as adv; the centre of the ball.
        eps: l2 radius, >= 0, a float or (B,).
        step: length of the step, a float or (B,).

    Raises:
        TypeError, ValueError, BackendUnavailable: see fastattack.ops.
    """
    if library.traced(adv):
        library.zero_mean_step(adv, grad, origin, eps, step, backend)
        return adv
    names = ("adv", "grad", "origin")
    images = check.images(names, adv, grad, origin)
    like = images[0]
    radius, size = check.per_sample(eps, "eps", like, least=0.0), check.per_sample(step, "step", like)
    run(resolve(like.device, backend).zero_mean_step, names, images, (radius, size))
    return adv


def project_zero_mean_(adv: Tensor, origin: Tensor, *, eps: float | Tensor, backend: str = "auto") -> Tensor:
    """Projects onto { y' : |y' - origin|_2 <= eps, mean(y' - origin) = 0 }, in the Euclidean norm of each sample.

    A point of the set, with the mean 0 to the rounding of the storage (see zero_mean_step_), stays where it is, to the
    bit.

    Args:
        adv: (B, ...), written in place.
        origin: as adv: shape, dtype, device.
        eps: l2 radius, >= 0, a float or (B,).

    Raises:
        TypeError, ValueError, BackendUnavailable: see fastattack.ops.
    """
    if library.traced(adv):
        library.project_zero_mean(adv, origin, eps, backend)
        return adv
    names = ("adv", "origin")
    images = check.images(names, adv, origin)
    like = images[0]
    radius = check.per_sample(eps, "eps", like, least=0.0)
    step = resolve(like.device, backend).zero_mean_step
    run(lambda adv, origin: step(adv, None, origin, radius, 0.0), names, images, ())
    return adv


library.register(zero_mean_step_, project_zero_mean_)
