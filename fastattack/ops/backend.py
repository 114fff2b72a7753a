"""The table that every backend fills: functions on tensors that have been checked already.

Common to all of them:

- ``adv``, ``grad``, ``origin``, ``clean``, ``noise``, ``momentum``, ``total``: one shape (B, ...), one dtype (float16,
  bfloat16, float32, float64), one device, at least one element, at most four inner dimensions after
  ``layout.collapse``; any strides.
- ``mask``: None, or bool and expanded to that shape (strides may be 0).
- ``norm``: "linf" or "l2".
- ``eps``, ``step``, ``sigma``, ``mean``, ``typicality``, ``decay``: a float, or a contiguous float64 tensor (B,) on the
  same device.
- ``a``, ``b`` of distances, ``previous``, ``x``, ``eps_hat``: as ``adv``; ``momentum``: as ``step``; ``a``, ``b``,
  ``c`` of a diffusion: as ``eps``.
- ``keep``: as ``eps``, in (0, 1].
- ``bounds``: (low, high), already rounded to the storage type; (-inf, inf) where there are none.
- ``sample_ids``: contiguous int64 tensor (B,) on the same device, or None for 0 .. B-1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Scalar = float | Tensor
Bounds = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Backend:
    """The kernels of one backend."""

    name: str
    pgd_step: Callable[[Tensor, Tensor, Tensor, Tensor | None, str, Scalar, Scalar, Bounds], None]
    """(adv, grad, origin, mask, norm, eps, step, bounds): writes adv."""
    project: Callable[[Tensor, Tensor, Tensor | None, str, Scalar, Bounds], None]
    """(adv, origin, mask, norm, eps, bounds): writes adv."""
    preserve_noise: Callable[[Tensor, Tensor, Tensor, str, Scalar], None]
    """(adv, origin, clean, norm, eps): writes adv."""
    noise_stats: Callable[[Tensor, Scalar, Scalar], Tensor]
    """(noise, sigma, mean) -> (B, 6): mean, std, l1, l2, linf, typicality; float64 for float64 noise, else float32."""
    distances: Callable[[Tensor, Tensor], Tensor]
    """(a, b) -> (B, 4) float64: mse, l1, l2, linf of a - b; their memory may be shared."""
    random_start: Callable[[Tensor, Tensor, str, Scalar, Bounds, int, Tensor | None], None]
    """(adv, origin, norm, eps, bounds, seed, sample_ids): writes adv; 0 <= seed < 2**64."""
    typical_noise: Callable[[Tensor, Tensor | None, Scalar, Scalar, Scalar, int, Tensor | None], None]
    """(out, clean, sigma, typicality, mean, seed, sample_ids): writes out, whose old values are not read.

    A typicality that is NaN (for all, or in a tensor for some) makes plain N(mean, sigma^2)."""
    diffusion_step: Callable[[Tensor, Tensor | None, Scalar, Scalar, Scalar, int, int, Tensor | None], None]
    """(x, eps_hat, a, b, c, seed, step, sample_ids): writes x; eps_hat None: b is 0.0. 0 <= step < 2**24."""
    momentum_step: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None, str, Scalar, Scalar, Scalar, Bounds], None]
    """(adv, momentum, grad, origin, mask, norm, eps, step, decay, bounds): writes adv and momentum."""
    accumulate: Callable[[Tensor, Tensor, Scalar, Scalar], None]
    """(total, grad, keep, weight): writes total."""
    apgd_step: Callable[
        [Tensor, Tensor, Tensor, Tensor, Tensor | None, str, Scalar, Scalar, Scalar, Bounds],
        None,
    ]
    """(adv, previous, grad, origin, mask, norm, eps, step, momentum, bounds): writes adv and previous.

    Where momentum is 1, previous may hold anything."""
    zero_mean_step: Callable[[Tensor, Tensor | None, Tensor, Scalar, Scalar], None]
    """(adv, grad, origin, eps, step): writes adv; grad None projects alone, whatever the step."""
    quantise: Callable[[Tensor, Tensor, Tensor | None, str, Scalar, int, Bounds], None]
    """(adv, origin, mask, norm, eps, bits, bounds): writes adv, float32 or float64; "linf", "l2" or "l1", 8 or 16 bits,
    bounds within [0, 1]."""
    l1_project: Callable[[Tensor, Tensor, Tensor | None, Scalar, Bounds], None]
    """(adv, origin, mask, eps, bounds): writes adv."""
    l1_step: Callable[[Tensor, Tensor, Tensor, Tensor | None, Scalar, Scalar, Scalar, Bounds], None]
    """(adv, grad, origin, mask, eps, step, keep, bounds): writes adv."""


class BackendUnavailable(RuntimeError):
    """The backend that was asked for cannot run here; the message says why, and what can."""
