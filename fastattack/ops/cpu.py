"""Launcher of the C++ kernels (csrc/cpu): tensors in, pointers, sizes and strides out. No arithmetic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, get_num_threads

from .backend import Backend, BackendUnavailable, Bounds, Scalar
from .layout import collapse

DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
NORMS = {"linf": 0, "l2": 1}


def _walked(first: Tensor, *rest: Tensor | None, keep_order: bool) -> tuple[Any, ...]:
    """(pointers, batch, count, walk, dtype) as the module takes them: the pointer is 0 where there is no tensor, and
    walk is None where each sample of each tensor is one run."""
    tensors = (first, *(t for t in rest if t is not None))
    layout = collapse(*tensors, keep_order=keep_order)
    assert layout is not None, "the checked op copies what has too many dimensions"
    count = layout.count
    runs = layout.flat and all(s == (count, 0, 0, 0, 1) for s in layout.strides)
    pointers = (0 if t is None else t.data_ptr() for t in (first, *rest))
    return *pointers, layout.batch, count, None if runs else (layout.sizes, *layout.strides), DTYPES[first.dtype]


def _scalar(value: Scalar) -> tuple[float, int]:
    """(value, pointer): the pointer is 0 where one value serves all samples."""
    return (value, 0) if type(value) is float else (0.0, value.data_ptr())  # type: ignore[union-attr]


def load() -> Backend:
    """The backend, or BackendUnavailable with the reason."""
    try:
        from fastattack import _cpu
    except ImportError as error:
        raise BackendUnavailable(f"fastattack._cpu is not built or does not load: {error}") from error
    native: Any = _cpu  # a type checker cannot count arguments that memory() makes

    def memory(first: Tensor, *rest: Tensor | None, keep_order: bool = False) -> tuple[Any, ...]:
        return native.plain(DTYPES, first, *rest) or _walked(first, *rest, keep_order=keep_order)

    def pgd_step(
        adv: Tensor, grad: Tensor, origin: Tensor, mask: Tensor | None, norm: str, eps: Scalar, step: Scalar,
        bounds: Bounds,
    ) -> None:  # fmt: skip
        native.pgd_step(
            *memory(adv, grad, origin, mask), NORMS[norm], *_scalar(eps), *_scalar(step), *bounds, get_num_threads()
        )

    def project(adv: Tensor, origin: Tensor, mask: Tensor | None, norm: str, eps: Scalar, bounds: Bounds) -> None:
        native.project(*memory(adv, origin, mask), NORMS[norm], *_scalar(eps), *bounds, get_num_threads())

    def preserve_noise(adv: Tensor, origin: Tensor, clean: Tensor, norm: str, eps: Scalar) -> None:
        native.preserve_noise(*memory(adv, origin, clean), NORMS[norm], *_scalar(eps), get_num_threads())

    def noise_stats(noise: Tensor, sigma: Scalar, mean: Scalar) -> Tensor:
        pointer, *shape = memory(noise)
        out = torch.empty(noise.shape[0], 6, dtype=torch.float64 if noise.dtype is torch.float64 else torch.float32)
        native.noise_stats(pointer, out.data_ptr(), *shape, *_scalar(sigma), *_scalar(mean), get_num_threads())
        return out

    def distances(a: Tensor, b: Tensor) -> Tensor:
        mine, theirs, *shape = memory(a, b)
        out = torch.empty(a.shape[0], 4, dtype=torch.float64)
        native.distances(mine, theirs, out.data_ptr(), *shape, get_num_threads())
        return out

    def random_start(
        adv: Tensor, origin: Tensor, norm: str, eps: Scalar, bounds: Bounds, seed: int, sample_ids: Tensor | None
    ) -> None:
        native.random_start(
            *memory(adv, origin, keep_order=True), NORMS[norm], *_scalar(eps), *bounds, seed,
            0 if sample_ids is None else sample_ids.data_ptr(), get_num_threads(),
        )  # fmt: skip

    def typical_noise(
        out: Tensor, clean: Tensor | None, sigma: Scalar, typicality: Scalar, mean: Scalar, seed: int,
        sample_ids: Tensor | None,
    ) -> None:  # fmt: skip
        native.typical_noise(
            *memory(out, clean, keep_order=True), *_scalar(sigma), *_scalar(typicality), *_scalar(mean), seed,
            0 if sample_ids is None else sample_ids.data_ptr(), get_num_threads(),
        )  # fmt: skip

    def momentum_step(
        adv: Tensor, momentum: Tensor, grad: Tensor, origin: Tensor, mask: Tensor | None, norm: str, eps: Scalar,
        step: Scalar, decay: Scalar, bounds: Bounds,
    ) -> None:  # fmt: skip
        native.momentum_step(
            *memory(adv, momentum, grad, origin, mask), NORMS[norm], *_scalar(eps), *_scalar(step), *_scalar(decay),
            *bounds, get_num_threads(),
        )  # fmt: skip

    def accumulate(total: Tensor, grad: Tensor, keep: Scalar, weight: Scalar) -> None:
        native.accumulate(*memory(total, grad), *_scalar(keep), *_scalar(weight), get_num_threads())

    def apgd_step(
        adv: Tensor, previous: Tensor, grad: Tensor, origin: Tensor, mask: Tensor | None, norm: str, eps: Scalar,
        step: Scalar, momentum: Scalar, bounds: Bounds,
    ) -> None:  # fmt: skip
        native.apgd_step(
            *memory(adv, previous, grad, origin, mask), NORMS[norm], *_scalar(eps), *_scalar(step),
            *_scalar(momentum), *bounds, get_num_threads(),
        )  # fmt: skip

    def zero_mean_step(adv: Tensor, grad: Tensor | None, origin: Tensor, eps: Scalar, step: Scalar) -> None:
        if grad is None:  # a step of length 0 along anything
            grad, step = origin, 0.0
        native.zero_mean_step(*memory(adv, grad, origin), *_scalar(eps), *_scalar(step), get_num_threads())

    def quantise(
        adv: Tensor, origin: Tensor, mask: Tensor | None, norm: str, eps: Scalar, bits: int, bounds: Bounds
    ) -> None:
        native.quantise(
            *memory(adv, origin, mask), NORMS["linf" if norm == "linf" else "l2"], *_scalar(eps), *bounds,
            2**bits - 1, get_num_threads(),
        )  # fmt: skip

    def l1_project(adv: Tensor, origin: Tensor, mask: Tensor | None, eps: Scalar, bounds: Bounds) -> None:
        native.l1_project(*memory(adv, origin, mask), *_scalar(eps), *bounds, get_num_threads())

    def l1_step(
        adv: Tensor, grad: Tensor, origin: Tensor, mask: Tensor | None, eps: Scalar, step: Scalar, keep: Scalar,
        bounds: Bounds,
    ) -> None:  # fmt: skip
        native.l1_step(
            *memory(adv, grad, origin, mask), *_scalar(eps), *_scalar(step), *_scalar(keep), *bounds,
            get_num_threads(),
        )  # fmt: skip

    return Backend(
        "cpu",
        pgd_step=pgd_step,
        project=project,
        preserve_noise=preserve_noise,
        noise_stats=noise_stats,
        distances=distances,
        random_start=random_start,
        typical_noise=typical_noise,
        momentum_step=momentum_step,
        accumulate=accumulate,
        apgd_step=apgd_step,
        zero_mean_step=zero_mean_step,
        quantise=quantise,
        l1_project=l1_project,
        l1_step=l1_step,
    )
