"""The ops as `torch.library` custom ops, so that a compiled function goes through them without a graph break.

A custom op takes no "float or tensor", so each such argument travels as a pair, of which one is None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_eager: dict[str, Callable[..., Any]] = {}


def register(*functions: Callable[..., Any]) -> None:
    """The checked eager functions that the custom ops run."""
    for function in functions:
        _eager[function.__name__.strip("_")] = function


def _join(number: float | None, values: Tensor | None) -> Any:
    return number if values is None else values


def _level(low: float | None, values: Tensor | None, high: float | None) -> Any:
    return _join(low, values) if high is None else (low, high)


def _bounds(low: float | None, high: float | None) -> tuple[float, float] | None:
    return None if low is None or high is None else (low, high)


@torch.library.custom_op("fastattack::pgd_step_", mutates_args={"adv"})
def pgd_step(
    adv: Tensor, grad: Tensor, origin: Tensor, norm: str, eps: float | None, eps_values: Tensor | None,
    step: float | None, step_values: Tensor | None, low: float | None, high: float | None, mask: Tensor | None,
    backend: str,
) -> None:  # fmt: skip
    with torch.no_grad():
        _eager["pgd_step"](
            adv, grad, origin, norm=norm, eps=_join(eps, eps_values), step=_join(step, step_values),
            bounds=_bounds(low, high), mask=mask, backend=backend,
        )  # fmt: skip


@torch.library.custom_op("fastattack::project_", mutates_args={"adv"})
def project(
    adv: Tensor, origin: Tensor, norm: str, eps: float | None, eps_values: Tensor | None, low: float | None,
    high: float | None, mask: Tensor | None, backend: str,
) -> None:  # fmt: skip
    with torch.no_grad():
        _eager["project"](
            adv, origin, norm=norm, eps=_join(eps, eps_values), bounds=_bounds(low, high), mask=mask, backend=backend
        )


@torch.library.custom_op("fastattack::preserve_noise_", mutates_args={"adv"})
def preserve_noise(
    adv: Tensor, origin: Tensor, clean: Tensor, norm: str, eps: float | None, eps_values: Tensor | None, backend: str
) -> None:
    with torch.no_grad():
        _eager["preserve_noise"](adv, origin, clean, norm=norm, eps=_join(eps, eps_values), backend=backend)


@torch.library.custom_op("fastattack::noise_stats", mutates_args=())
def noise_stats(
    noise: Tensor, sigma: float | None, sigma_values: Tensor | None, mean: float | None, mean_values: Tensor | None,
    backend: str,
) -> Tensor:  # fmt: skip
    stats: Tensor = _eager["noise_stats"](noise, _join(sigma, sigma_values), _join(mean, mean_values), backend)
    return stats


@torch.library.custom_op("fastattack::distances", mutates_args=())
def distances(a: Tensor, b: Tensor, backend: str) -> Tensor:
    table: Tensor = _eager["distances"](a, b, backend)
    return table


@torch.library.custom_op("fastattack::random_start_", mutates_args={"adv"})
def random_start(
    adv: Tensor, origin: Tensor, norm: str, eps: float | None, eps_values: Tensor | None, low: float | None,
    high: float | None, seed: str, sample_ids: Tensor | None, backend: str,
) -> None:  # fmt: skip
    # The seed is text, because a schema's int holds 63 bits of the 64.
    with torch.no_grad():
        _eager["random_start"](
            adv, origin, norm=norm, eps=_join(eps, eps_values), bounds=_bounds(low, high), seed=int(seed),
            sample_ids=sample_ids, backend=backend,
        )  # fmt: skip


@torch.library.custom_op("fastattack::typical_noise_", mutates_args={"out"})
def typical_noise(
    out: Tensor, clean: Tensor | None, sigma: float | None, sigma_values: Tensor | None, sigma_high: float | None,
    typicality: float | None, typicality_values: Tensor | None, typicality_high: float | None, mean: float | None,
    mean_values: Tensor | None, mean_high: float | None, seed: str, sample_ids: Tensor | None, backend: str,
) -> None:  # fmt: skip
    with torch.no_grad():
        _eager["typical_noise"](
            out, clean, _level(sigma, sigma_values, sigma_high),
            _level(typicality, typicality_values, typicality_high), _level(mean, mean_values, mean_high), None,
            int(seed), sample_ids, backend,
        )  # fmt: skip


@torch.library.custom_op("fastattack::diffusion_step_", mutates_args={"x"})
def diffusion_step(
    x: Tensor, eps_hat: Tensor | None, a: float | None, a_values: Tensor | None, b: float | None,
    b_values: Tensor | None, c: float | None, c_values: Tensor | None, seed: str, step: int,
    sample_ids: Tensor | None, backend: str,
) -> None:  # fmt: skip
    with torch.no_grad():
        _eager["diffusion_step"](
            x, eps_hat, coefficients=(_join(a, a_values), _join(b, b_values), _join(c, c_values)), seed=int(seed),
            step=step, sample_ids=sample_ids, backend=backend,
        )  # fmt: skip


@torch.library.custom_op("fastattack::momentum_step_", mutates_args={"adv", "momentum"})
def momentum_step(
    adv: Tensor, momentum: Tensor, grad: Tensor, origin: Tensor, norm: str, eps: float | None,
    eps_values: Tensor | None, step: float | None, step_values: Tensor | None, decay: float | None,
    decay_values: Tensor | None, low: float | None, high: float | None, mask: Tensor | None, backend: str,
) -> None:  # fmt: skip
    with torch.no_grad():
        _eager["momentum_step"](
            adv, momentum, grad, origin, norm=norm, eps=_join(eps, eps_values), step=_join(step, step_values),
            decay=_join(decay, decay_values), bounds=_bounds(low, high), mask=mask, backend=backend,
        )  # fmt: skip


@torch.library.custom_op("fastattack::accumulate_", mutates_args={"total"})
def accumulate(
    total: Tensor, grad: Tensor, keep: float | None, keep_values: Tensor | None, weight: float | None,
    weight_values: Tensor | None, backend: str,
) -> None:  # fmt: skip
    with torch.no_grad():
        _eager["accumulate"](
            total, grad, keep=_join(keep, keep_values), weight=_join(weight, weight_values), backend=backend
        )


@torch.library.custom_op("fastattack::apgd_step_", mutates_args={"adv", "previous"})
def apgd_step(
    adv: Tensor, previous: Tensor, grad: Tensor, origin: Tensor, norm: str, eps: float | None,
    eps_values: Tensor | None, step: float | None, step_values: Tensor | None, momentum: float | None,
    momentum_values: Tensor | None, low: float | None, high: float | None, mask: Tensor | None, backend: str,
) -> None:  # fmt: skip
    with torch.no_grad():
        _eager["apgd_step"](
            adv, previous, grad, origin, norm=norm, eps=_join(eps, eps_values), step=_join(step, step_values),
            momentum=_join(momentum, momentum_values), bounds=_bounds(low, high), mask=mask, backend=backend,
        )  # fmt: skip


@torch.library.custom_op("fastattack::zero_mean_step_", mutates_args={"adv"})
def zero_mean_step(
    adv: Tensor, grad: Tensor, origin: Tensor, eps: float | None, eps_values: Tensor | None, step: float | None,
    step_values: Tensor | None, backend: str,
) -> None:  # fmt: skip
    with torch.no_grad():
        _eager["zero_mean_step"](
            adv, grad, origin, eps=_join(eps, eps_values), step=_join(step, step_values), backend=backend
        )


@torch.library.custom_op("fastattack::project_zero_mean_", mutates_args={"adv"})
def project_zero_mean(adv: Tensor, origin: Tensor, eps: float | None, eps_values: Tensor | None, backend: str) -> None:
    with torch.no_grad():
        _eager["project_zero_mean"](adv, origin, eps=_join(eps, eps_values), backend=backend)


@torch.library.custom_op("fastattack::quantise_", mutates_args={"adv"})
def quantise(
    adv: Tensor, origin: Tensor, eps: float | None, eps_values: Tensor | None, bits: int, norm: str,
    low: float | None, high: float | None, mask: Tensor | None, backend: str,
) -> None:  # fmt: skip
    with torch.no_grad():
        _eager["quantise"](
            adv, origin, eps=_join(eps, eps_values), bits=bits, norm=norm, bounds=_bounds(low, high), mask=mask,
            backend=backend,
        )  # fmt: skip


@torch.library.custom_op("fastattack::l1_step_", mutates_args={"adv"})
def l1_step(
    adv: Tensor, grad: Tensor, origin: Tensor, eps: float | None, eps_values: Tensor | None, step: float | None,
    step_values: Tensor | None, keep: float | None, keep_values: Tensor | None, low: float | None, high: float | None,
    mask: Tensor | None, backend: str,
) -> None:  # fmt: skip
    with torch.no_grad():
        _eager["l1_step"](
            adv, grad, origin, eps=_join(eps, eps_values), step=_join(step, step_values),
            keep=_join(keep, keep_values), bounds=_bounds(low, high), mask=mask, backend=backend,
        )  # fmt: skip


@noise_stats.register_fake
def _(noise: Tensor, *args: Any) -> Tensor:
    return noise.new_empty(noise.shape[0], 6, dtype=torch.float64 if noise.dtype is torch.float64 else torch.float32)


@distances.register_fake
def _(a: Tensor, b: Tensor, backend: str) -> Tensor:
    return a.new_empty(a.shape[0], 4, dtype=torch.float64)


def _nothing(*args: Any) -> None:
    """The fake of an op that only writes its argument."""


for _op in (
    pgd_step,
    project,
    preserve_noise,
    random_start,
    typical_noise,
    diffusion_step,
    momentum_step,
    accumulate,
    apgd_step,
    zero_mean_step,
    project_zero_mean,
    quantise,
    l1_step,
):
    _op.register_fake(_nothing)
