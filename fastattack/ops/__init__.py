"""The operations of an attack, fused: one memory pass where the maths allows.

All work per sample over a batch (B, ...), on contiguous, channels_last and strided tensors. Storage float16, bfloat16
and float32 is computed in float32 (sums in float64), float64 in float64. A trailing underscore writes the first
argument in place and returns it. ``eps``, ``step``: a float or a (B,) tensor, on the scale of the images. ``bounds``:
(low, high) or None. ``mask``: broadcastable to the images, 0 keeps ``origin``. ``backend``: "auto", "reference", "cpu",
"triton", "cuda" or "cupy".

Common errors: TypeError for a dtype or type that does not fit, ValueError for shapes, devices and values,
BackendUnavailable for a backend that cannot run here. NaN in the tensors is not searched for: it comes out as NaN.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import check, l1, library
from .accumulate import accumulate_
from .apgd import apgd_step_
from .backend import Backend, BackendUnavailable
from .diffusion import diffusion_step_
from .dispatch import available, resolve, use_backend
from .distance import Distances, distances
from .l1 import l1_step_
from .layout import INNER_DIMS, collapse
from .momentum import momentum_step_
from .noise import typical_noise
from .quantise import grid_gap, quantise_
from .run import run
from .spectrum import Spectrum
from .zero_mean import project_zero_mean_, zero_mean_step_

__all__ = [
    "Backend",
    "BackendUnavailable",
    "Distances",
    "NoiseStats",
    "Spectrum",
    "accumulate_",
    "apgd_step_",
    "available",
    "diffusion_step_",
    "distances",
    "grid_gap",
    "l1_step_",
    "momentum_step_",
    "noise_stats",
    "pgd_step_",
    "preserve_noise_",
    "project_",
    "project_zero_mean_",
    "quantise_",
    "random_start_",
    "typical_noise",
    "use_backend",
    "zero_mean_step_",
]

_STEP = ("adv", "grad", "origin")
_PAIR = ("adv", "origin")


class NoiseStats(NamedTuple):
    """Statistics of each sample's noise, all (B,)."""

    mean: Tensor
    std: Tensor
    """With d, not d - 1, below: the maximum-likelihood estimate."""
    l1: Tensor
    l2: Tensor
    linf: Tensor
    typicality: Tensor | None
    """The typicality gap 1/2 (|n - mean|^2 / (d sigma^2) - 1) in nats per pixel; None where no sigma was given."""


def pgd_step_(
    adv: Tensor,
    grad: Tensor,
    origin: Tensor,
    *,
    norm: str,
    eps: float | Tensor,
    step: float | Tensor,
    bounds: tuple[float, float] | None = None,
    mask: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """One projected-gradient step: adv <- P(adv + step * direction(grad)), onto |adv - origin|_p <= eps and the bounds.

    The direction is sign(grad) for "linf", grad / |grad|_2 for "l2" (Madry et al., arXiv 1706.06083). A negative step
    descends. A zero gradient moves nothing. ``(adv - origin).abs().max() <= eps`` holds in the computing type without a
    tolerance, whatever the storage type. Bounds are applied last; where origin lies inside them, so does the ball.

    Args:
        adv: (B, ...), written in place.
        grad: as adv: shape, dtype, device.
        origin: as adv; the centre of the ball.

    Raises:
        TypeError, ValueError, BackendUnavailable: see the module.
    """
    if library.traced(adv):
        library.pgd_step(adv, grad, origin, norm, eps, step, bounds, mask, backend)
        return adv
    images = check.images(_STEP, adv, grad, origin)
    like = images[0]
    check.require_norm(norm, hint=" (for which there is l1_step_)")
    radius = check.per_sample(eps, "eps", like, least=0.0, down=norm == "linf")
    size = check.per_sample(step, "step", like)
    box, where = check.bounds_of(bounds, like.dtype), check.mask_of(mask, like)
    kernel = resolve(like.device, backend).pgd_step
    run(kernel, _STEP, images, (where, norm, radius, size, box))
    return adv


def project_(
    adv: Tensor,
    origin: Tensor,
    *,
    norm: str,
    eps: float | Tensor,
    bounds: tuple[float, float] | None = None,
    mask: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Projects onto |adv - origin|_p <= eps, then onto the bounds. A point inside stays where it is, to the bit.

    "l1": the nearest point of ball and bounds together (Croce & Hein, arXiv 2103.01208), kept 2^-22 of eps inside the
    ball; the nearest point of the bounds to origin where the two do not meet. Masked pixels do not count. A NaN or an
    infinite distance makes the sample NaN.

    Args:
        adv: (B, ...), written in place.
        origin: as adv: shape, dtype, device.

    Raises:
        TypeError, ValueError, BackendUnavailable: see the module.
    """
    if library.traced(adv):
        library.project(adv, origin, norm, eps, bounds, mask, backend)
        return adv
    images = check.images(_PAIR, adv, origin)
    like = images[0]
    check.require_norm(norm, check.BALLS)
    radius = check.per_sample(eps, "eps", like, least=0.0, down=norm == "linf")
    box, where = check.bounds_of(bounds, like.dtype), check.mask_of(mask, like)
    kernel = partial(l1.project, resolve(like.device, backend))
    run(kernel, _PAIR, images, (where, norm, radius, box))
    return adv


def preserve_noise_(
    adv: Tensor, origin: Tensor, clean: Tensor, *, norm: str, eps: float | Tensor, backend: str = "auto"
) -> Tensor:
    """Projects onto the attacked inputs whose noise has the mean and the norm of the original noise.

    The set is { y' : |y' - y|_p <= eps, mean(y' - x) = mean(y - x), |y' - x|_2 = |y - x|_2 } with y = origin and
    x = clean (arXiv 2306.16050, 2412.05943; this project's formulation). The result is its nearest point, found by
    Newton's method on the dual of mean and norm ("linf") or in closed form ("l2"), to 1e-6 in relative norm and in mean
    over rms noise; the ball holds to the bit. Where no such point is found (a few pixels, a far-off start), the
    noise stays as it was, which is in the set.

    Args:
        adv: (B, ...), the attacked input y'; written in place.
        origin: as adv; the noisy input y.
        clean: as adv; the clean image x.

    Raises:
        TypeError, ValueError, BackendUnavailable: see the module.
    """
    if library.traced(adv):
        library.preserve_noise(adv, origin, clean, norm, eps, backend)
        return adv
    names = ("adv", "origin", "clean")
    images = check.images(names, adv, origin, clean)
    like = images[0]
    check.require_norm(norm)
    radius = check.per_sample(eps, "eps", like, least=0.0, down=norm == "linf")
    kernel = resolve(like.device, backend).preserve_noise
    run(kernel, names, images, (norm, radius))
    return adv


def noise_stats(
    noise: Tensor,
    *,
    sigma: float | Tensor | None = None,
    mean: float | Tensor = 0.0,
    backend: str = "auto",
) -> NoiseStats:
    """Mean, standard deviation, norms and typicality of each sample, from one pass (arXiv 2412.05943).

    Args:
        noise: (B, ...).
        sigma: standard deviation of the noise model on the scale of the images (25/255, say), > 0: a float or (B,).
        mean: mean of the noise model; enters the typicality alone.

    Returns:
        NoiseStats of (B,) tensors: float64 for float64 noise, else float32; relative error below 1e-6.

    Raises:
        TypeError, ValueError, BackendUnavailable: see the module.
    """
    noise = check.as_tensor(noise, "noise")
    if library.traced(noise):
        table = library.noise_stats(noise, sigma, mean, backend)
    else:
        table = _noise_stats(noise, sigma, mean, backend)
    centre, std, l1, l2, linf, typicality = table.unbind(1)
    return NoiseStats(centre, std, l1, l2, linf, None if sigma is None else typicality)


def _noise_stats(noise: Tensor, sigma: Any, mean: Any, backend: str) -> Tensor:
    check.images(("noise",), noise)
    spread = float("nan") if sigma is None else check.positive(sigma, "sigma", noise)
    centre = check.per_sample(mean, "mean", noise)
    table = resolve(noise.device, backend)
    if noise.numel() == 0:
        return noise.new_empty(0, 6, dtype=torch.float64 if noise.dtype is torch.float64 else torch.float32)
    if noise.dim() > INNER_DIMS + 1 and collapse(noise) is None:
        noise = noise.contiguous()
    return table.noise_stats(noise, spread, centre)


def random_start_(
    adv: Tensor,
    origin: Tensor,
    *,
    norm: str,
    eps: float | Tensor,
    bounds: tuple[float, float] | None = None,
    seed: int,
    sample_ids: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Sets adv to a uniform point of the ball |adv - origin|_p <= eps.

    "l1": a uniform point of the cube of half-width eps, projected onto ball and bounds as project_ does it (AutoAttack
    projects a normal one): sparse, on the ball's surface, and not uniform in the ball.

    The numbers are Philox 4x32-10 of (seed, sample id, element in row-major order): the same bits on every backend, for
    every memory format and in every batch split.

    Args:
        adv: (B, ...), written in place.
        origin: as adv: shape, dtype, device.
        seed: 0 <= seed < 2**64.
        sample_ids: (B,) integers that name the samples; 0 .. B-1 by default.

    Raises:
        TypeError, ValueError, BackendUnavailable: see the module.
    """
    if library.traced(adv):
        library.random_start(adv, origin, norm, eps, bounds, seed, sample_ids, backend)
        return adv
    images = check.images(_PAIR, adv, origin)
    like = images[0]
    check.require_norm(norm, check.BALLS)
    radius = check.per_sample(eps, "eps", like, least=0.0, down=norm == "linf")
    box = check.bounds_of(bounds, like.dtype)
    number, ids = check.seed_of(seed), check.ids_of(sample_ids, like)
    kernel = partial(l1.random_start, resolve(like.device, backend))
    run(kernel, _PAIR, images, (norm, radius, box, number, ids), keep_order=True)
    return adv


library.register(pgd_step_, project_, preserve_noise_, _noise_stats, random_start_, l1_step_)
