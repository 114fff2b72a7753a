"""Launcher of the C++ kernels (csrc/cpu), which take the tensors themselves. No arithmetic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, get_num_threads

from .backend import Backend, BackendUnavailable, Bounds, Scalar
from .layout import collapse

DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
NORMS = {"linf": 0, "l2": 1}


def _walk(tensors: tuple[Tensor | None, ...], keep_order: bool) -> tuple[Any, ...]:
    """How the module walks tensors that are not all one run: (dtype, batch, sizes, one (pointer, strides) for each)."""
    given = [t for t in tensors if t is not None]
    layout = collapse(*given, keep_order=keep_order)
    assert layout is not None, "the checked op copies what has too many dimensions"
    strides = iter(layout.strides)
    places = tuple(None if t is None else (t.data_ptr(), next(strides)) for t in tensors)
    return DTYPES[given[0].dtype], layout.batch, layout.sizes, places


def load() -> Backend:
    """The backend, or BackendUnavailable with the reason."""
    try:
        from fastattack import _cpu
    except ImportError as error:
        raise BackendUnavailable(f"fastattack._cpu is not built or does not load: {error}") from error
    _cpu.use_torch(Tensor, DTYPES, _walk)

    def pgd_step(
        adv: Tensor, grad: Tensor, origin: Tensor, mask: Tensor | None, norm: str, eps: Scalar, step: Scalar,
        bounds: Bounds,
    ) -> None:  # fmt: skip
        _cpu.pgd_step((adv, grad, origin, mask), NORMS[norm], eps, step, bounds, get_num_threads())

    def project(adv: Tensor, origin: Tensor, mask: Tensor | None, norm: str, eps: Scalar, bounds: Bounds) -> None:
        _cpu.project((adv, origin, mask), NORMS[norm], eps, bounds, get_num_threads())

    def preserve_noise(adv: Tensor, origin: Tensor, clean: Tensor, norm: str, eps: Scalar) -> None:
        _cpu.preserve_noise((adv, origin, clean), NORMS[norm], eps, get_num_threads())

    def noise_stats(noise: Tensor, sigma: Scalar, mean: Scalar) -> Tensor:
        out = torch.empty(noise.shape[0], 6, dtype=torch.float64 if noise.dtype is torch.float64 else torch.float32)
        _cpu.noise_stats((noise,), out.data_ptr(), sigma, mean, get_num_threads())
        return out

    def distances(a: Tensor, b: Tensor) -> Tensor:
        out = torch.empty(a.shape[0], 4, dtype=torch.float64)
        _cpu.distances((a, b), out.data_ptr(), get_num_threads())
        return out

    def random_start(
        adv: Tensor, origin: Tensor, norm: str, eps: Scalar, bounds: Bounds, seed: int, sample_ids: Tensor | None
    ) -> None:
        ids = 0 if sample_ids is None else sample_ids.data_ptr()
        _cpu.random_start((adv, origin), NORMS[norm], eps, bounds, seed, ids, get_num_threads())

    def typical_noise(
        out: Tensor, clean: Tensor | None, sigma: Scalar, typicality: Scalar, mean: Scalar, seed: int,
        sample_ids: Tensor | None,
    ) -> None:  # fmt: skip
        ids = 0 if sample_ids is None else sample_ids.data_ptr()
        _cpu.typical_noise((out, clean), sigma, typicality, mean, seed, ids, get_num_threads())

    def diffusion_step(
        x: Tensor, eps_hat: Tensor | None, a: Scalar, b: Scalar, c: Scalar, seed: int, step: int,
        sample_ids: Tensor | None,
    ) -> None:  # fmt: skip
        ids = 0 if sample_ids is None else sample_ids.data_ptr()
        _cpu.diffusion_step((x, eps_hat), a, b, c, seed, step, ids, get_num_threads())

    def momentum_step(
        adv: Tensor, momentum: Tensor, grad: Tensor, origin: Tensor, mask: Tensor | None, norm: str, eps: Scalar,
        step: Scalar, decay: Scalar, bounds: Bounds,
    ) -> None:  # fmt: skip
        _cpu.momentum_step(
            (adv, momentum, grad, origin, mask), NORMS[norm], eps, step, decay, bounds, get_num_threads()
        )

    def accumulate(total: Tensor, grad: Tensor, keep: Scalar, weight: Scalar) -> None:
        _cpu.accumulate((total, grad), keep, weight, get_num_threads())

    def apgd_step(
        adv: Tensor, previous: Tensor, grad: Tensor, origin: Tensor, mask: Tensor | None, norm: str, eps: Scalar,
        step: Scalar, momentum: Scalar, bounds: Bounds,
    ) -> None:  # fmt: skip
        _cpu.apgd_step((adv, previous, grad, origin, mask), NORMS[norm], eps, step, momentum, bounds, get_num_threads())

    def zero_mean_step(adv: Tensor, grad: Tensor | None, origin: Tensor, eps: Scalar, step: Scalar) -> None:
        if grad is None:  # a step of length 0 along anything
            grad, step = origin, 0.0
        _cpu.zero_mean_step((adv, grad, origin), eps, step, get_num_threads())

    def quantise(
        adv: Tensor, origin: Tensor, mask: Tensor | None, norm: str, eps: Scalar, bits: int, bounds: Bounds
    ) -> None:
        _cpu.quantise(
            (adv, origin, mask), NORMS["linf" if norm == "linf" else "l2"], eps, bounds, 2**bits - 1, get_num_threads()
        )

    def l1_project(adv: Tensor, origin: Tensor, mask: Tensor | None, eps: Scalar, bounds: Bounds) -> None:
        _cpu.l1_project((adv, origin, mask), eps, bounds, get_num_threads())

    def l1_step(
        adv: Tensor, grad: Tensor, origin: Tensor, mask: Tensor | None, eps: Scalar, step: Scalar, keep: Scalar,
        bounds: Bounds,
    ) -> None:  # fmt: skip
        _cpu.l1_step((adv, grad, origin, mask), eps, step, keep, bounds, get_num_threads())

    return Backend(
        "cpu",
        pgd_step=pgd_step,
        project=project,
        preserve_noise=preserve_noise,
        noise_stats=noise_stats,
        distances=distances,
        random_start=random_start,
        typical_noise=typical_noise,
        diffusion_step=diffusion_step,
        momentum_step=momentum_step,
        accumulate=accumulate,
        apgd_step=apgd_step,
        zero_mean_step=zero_mean_step,
        quantise=quantise,
        l1_project=l1_project,
        l1_step=l1_step,
    )
