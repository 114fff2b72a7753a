"""Calls of the ops where a function is being compiled, or the tensors are fake: by the custom ops of `library_ops`.

Eager calls never come here: the dispatcher costs more than a small kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from . import library_ops as ops
from .library_ops import register

__all__ = ["register", "traced"]


def traced(t: Any) -> bool:
    """Whether the call is being compiled, or the tensor is one that only the dispatcher understands (a fake tensor)."""
    return is_compiling() or (type(t) is not Tensor and isinstance(t, torch._subclasses.FakeTensor))


Pair = tuple[float | None, Tensor | None]


def _pair(value: Any) -> Pair:
    return (None, value) if isinstance(value, Tensor) else (None if value is None else float(value), None)


def _triple(value: Any) -> tuple[float | None, Tensor | None, float | None]:
    """A number, a tensor, an interval or None."""
    if isinstance(value, (tuple, list)):
        low, high = value
        return float(low), None, float(high)
    return (*_pair(value), None)


def _ends(bounds: tuple[float, float] | None) -> tuple[float | None, float | None]:
    return (None, None) if bounds is None else bounds


def pgd_step(
    adv: Tensor, grad: Tensor, origin: Tensor, norm: str, eps: Any, step: Any, bounds: Any, mask: Any, backend: str
) -> None:
    ops.pgd_step(adv, grad, origin, norm, *_pair(eps), *_pair(step), *_ends(bounds), mask, backend)


def project(adv: Tensor, origin: Tensor, norm: str, eps: Any, bounds: Any, mask: Any, backend: str) -> None:
    ops.project(adv, origin, norm, *_pair(eps), *_ends(bounds), mask, backend)


def preserve_noise(adv: Tensor, origin: Tensor, clean: Tensor, norm: str, eps: Any, backend: str) -> None:
    ops.preserve_noise(adv, origin, clean, norm, *_pair(eps), backend)


def noise_stats(noise: Tensor, sigma: Any, mean: Any, backend: str) -> Tensor:
    stats: Tensor = ops.noise_stats(noise, *_pair(sigma), *_pair(mean), backend)
    return stats


def distances(a: Tensor, b: Tensor, backend: str) -> Tensor:
    table: Tensor = ops.distances(a, b, backend)
    return table


def random_start(
    adv: Tensor, origin: Tensor, norm: str, eps: Any, bounds: Any, seed: int, sample_ids: Any, backend: str
) -> None:
    ops.random_start(adv, origin, norm, *_pair(eps), *_ends(bounds), str(seed), sample_ids, backend)


def typical_noise(
    out: Tensor, clean: Tensor | None, sigma: Any, typicality: Any, mean: Any, seed: int, sample_ids: Any, backend: str
) -> None:
    levels = (*_triple(sigma), *_triple(typicality), *_triple(mean))
    ops.typical_noise(out, clean, *levels, str(seed), sample_ids, backend)


def diffusion_step(
    x: Tensor, eps_hat: Tensor | None, coefficients: Any, seed: int, step: int, sample_ids: Any, backend: str
) -> None:
    a, b, c = coefficients
    ops.diffusion_step(x, eps_hat, *_pair(a), *_pair(b), *_pair(c), str(seed), step, sample_ids, backend)


def momentum_step(
    adv: Tensor, momentum: Tensor, grad: Tensor, origin: Tensor, norm: str, eps: Any, step: Any, decay: Any,
    bounds: Any, mask: Any, backend: str,
) -> None:  # fmt: skip
    numbers = (*_pair(eps), *_pair(step), *_pair(decay))
    ops.momentum_step(adv, momentum, grad, origin, norm, *numbers, *_ends(bounds), mask, backend)


def accumulate(total: Tensor, grad: Tensor, keep: Any, weight: Any, backend: str) -> None:
    ops.accumulate(total, grad, *_pair(keep), *_pair(weight), backend)


def apgd_step(
    adv: Tensor, previous: Tensor, grad: Tensor, origin: Tensor, norm: str, eps: Any, step: Any, momentum: Any,
    bounds: Any, mask: Any, backend: str,
) -> None:  # fmt: skip
    numbers = (*_pair(eps), *_pair(step), *_pair(momentum))
    ops.apgd_step(adv, previous, grad, origin, norm, *numbers, *_ends(bounds), mask, backend)


def zero_mean_step(adv: Tensor, grad: Tensor, origin: Tensor, eps: Any, step: Any, backend: str) -> None:
    ops.zero_mean_step(adv, grad, origin, *_pair(eps), *_pair(step), backend)


def project_zero_mean(adv: Tensor, origin: Tensor, eps: Any, backend: str) -> None:
    ops.project_zero_mean(adv, origin, *_pair(eps), backend)


def quantise(adv: Tensor, origin: Tensor, eps: Any, bits: int, norm: str, bounds: Any, mask: Any, backend: str) -> None:
    ops.quantise(adv, origin, *_pair(eps), bits, norm, *_ends(bounds), mask, backend)


def l1_step(
    adv: Tensor, grad: Tensor, origin: Tensor, eps: Any, step: Any, keep: Any, bounds: Any, mask: Any, backend: str
) -> None:
    ops.l1_step(adv, grad, origin, *_pair(eps), *_pair(step), *_pair(keep), *_ends(bounds), mask, backend)
