"""The public ops zero_mean_step_ and project_zero_mean_: perturbations of mean 0 in an l2 ball."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from . import check, library
from .dispatch import resolve
from .layout import INNER_DIMS, collapse


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
    image, slope = check.as_tensor(adv, "adv"), check.as_tensor(grad, "grad")
    _run(image, slope, check.as_tensor(origin, "origin"), eps, step, backend)
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
    _run(check.as_tensor(adv, "adv"), None, check.as_tensor(origin, "origin"), eps, 0.0, backend)
    return adv


def _run(adv: Tensor, grad: Tensor | None, origin: Tensor, eps: Any, step: Any, backend: str) -> None:
    check.require_images(adv, "adv")
    others = (("origin", origin),) if grad is None else (("grad", grad), ("origin", origin))
    check.require_alike("adv", adv, *others)
    radius = check.per_sample(eps, "eps", adv, least=0.0)
    size = check.per_sample(step, "step", adv)
    table = resolve(adv.device, backend)
    if adv.numel() == 0:
        return
    check.require_writable(adv, *others)
    given = [t for _, t in others]
    if adv.dim() > INNER_DIMS + 1 and collapse(adv, *given, keep_order=True) is None:
        copy = adv.contiguous()
        table.zero_mean_step(copy, None if grad is None else grad.contiguous(), origin.contiguous(), radius, size)
        adv.copy_(copy)
        return
    table.zero_mean_step(adv, grad, origin, radius, size)
    check.written(adv)


library.register(zero_mean_step_, project_zero_mean_)
