"""Launcher of the C++ kernels (csrc/cpu): tensors in, pointers, sizes and strides out. No arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor

from .backend import Backend, BackendUnavailable, Bounds, Scalar
from .layout import Layout, collapse

DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
NORMS = {"linf": 0, "l2": 1}


def _walk(layout: Layout | None) -> tuple[int, int, tuple[object, ...] | None]:
    """(batch, count, walk) as the module takes them; walk is None where each sample is one run."""
    assert layout is not None, "the checked op copies what has too many dimensions"
    count = layout.count
    plain = layout.flat and all(s == (count, 0, 0, 0, 1) for s in layout.strides)
    return layout.batch, count, None if plain else (layout.sizes, *layout.strides)


def _scalar(value: Scalar) -> tuple[float, int]:
    """(value, pointer): the pointer is 0 where one value serves all samples."""
    return (value, 0) if type(value) is float else (0.0, value.data_ptr())  # type: ignore[union-attr]


def load() -> Backend:
    """The backend, or BackendUnavailable with the reason."""
    try:
        from fastattack import _cpu as native
    except ImportError as error:
        raise BackendUnavailable(f"fastattack._cpu is not built or does not load: {error}") from error

    def pgd_step(
        adv: Tensor, grad: Tensor, origin: Tensor, mask: Tensor | None, norm: str, eps: Scalar, step: Scalar,
        bounds: Bounds,
    ) -> None:  # fmt: skip
        if mask is None and adv.is_contiguous() and grad.is_contiguous() and origin.is_contiguous():
            batch, walk = adv.shape[0], None
            count = adv.numel() // batch
            if type(eps) is float and type(step) is float:  # the common call, and the one whose overhead shows
                native.pgd_step(
                    adv.data_ptr(), grad.data_ptr(), origin.data_ptr(), 0, batch, count, None, DTYPES[adv.dtype],
                    NORMS[norm], eps, 0, step, 0, bounds[0], bounds[1], torch.get_num_threads(),
                )  # fmt: skip
                return
        else:
            tensors = (adv, grad, origin) if mask is None else (adv, grad, origin, mask)
            batch, count, walk = _walk(collapse(*tensors))
        native.pgd_step(
            adv.data_ptr(), grad.data_ptr(), origin.data_ptr(), 0 if mask is None else mask.data_ptr(), batch, count,
            walk, DTYPES[adv.dtype], NORMS[norm], *_scalar(eps), *_scalar(step), *bounds, torch.get_num_threads(),
        )  # fmt: skip

    def project(adv: Tensor, origin: Tensor, mask: Tensor | None, norm: str, eps: Scalar, bounds: Bounds) -> None:
        tensors = (adv, origin) if mask is None else (adv, origin, mask)
        batch, count, walk = _walk(collapse(*tensors))
        native.project(
            adv.data_ptr(), origin.data_ptr(), 0 if mask is None else mask.data_ptr(), batch, count, walk,
            DTYPES[adv.dtype], NORMS[norm], *_scalar(eps), *bounds, torch.get_num_threads(),
        )  # fmt: skip

    def preserve_noise(adv: Tensor, origin: Tensor, clean: Tensor, norm: str, eps: Scalar) -> None:
        batch, count, walk = _walk(collapse(adv, origin, clean))
        native.preserve_noise(
            adv.data_ptr(), origin.data_ptr(), clean.data_ptr(), batch, count, walk, DTYPES[adv.dtype], NORMS[norm],
            *_scalar(eps), torch.get_num_threads(),
        )  # fmt: skip

    def noise_stats(noise: Tensor, sigma: Scalar, mean: Scalar) -> Tensor:
        batch, count, walk = _walk(collapse(noise))
        out = torch.empty(batch, 6, dtype=torch.float64)
        native.noise_stats(
            noise.data_ptr(), out.data_ptr(), batch, count, walk, DTYPES[noise.dtype], *_scalar(sigma), *_scalar(mean),
            torch.get_num_threads(),
        )  # fmt: skip
        return out if noise.dtype is torch.float64 else out.float()

    def distances(a: Tensor, b: Tensor) -> Tensor:
        batch, count, walk = _walk(collapse(a, b))
        out = torch.empty(batch, 4, dtype=torch.float64)
        native.distances(
            a.data_ptr(), b.data_ptr(), out.data_ptr(), batch, count, walk, DTYPES[a.dtype], torch.get_num_threads()
        )
        return out

    def random_start(
        adv: Tensor, origin: Tensor, norm: str, eps: Scalar, bounds: Bounds, seed: int, sample_ids: Tensor | None
    ) -> None:
        batch, count, walk = _walk(collapse(adv, origin, keep_order=True))
        native.random_start(
            adv.data_ptr(), origin.data_ptr(), batch, count, walk, DTYPES[adv.dtype], NORMS[norm], *_scalar(eps),
            *bounds, seed, 0 if sample_ids is None else sample_ids.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip

    def typical_noise(
        out: Tensor, clean: Tensor | None, sigma: Scalar, typicality: Scalar, mean: Scalar, seed: int,
        sample_ids: Tensor | None,
    ) -> None:  # fmt: skip
        tensors = (out,) if clean is None else (out, clean)
        batch, count, walk = _walk(collapse(*tensors, keep_order=True))
        native.typical_noise(
            out.data_ptr(), 0 if clean is None else clean.data_ptr(), batch, count, walk, DTYPES[out.dtype],
            *_scalar(sigma), *_scalar(typicality), *_scalar(mean), seed,
            0 if sample_ids is None else sample_ids.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip

    def momentum_step(
        adv: Tensor, momentum: Tensor, grad: Tensor, origin: Tensor, mask: Tensor | None, norm: str, eps: Scalar,
        step: Scalar, decay: Scalar, bounds: Bounds,
    ) -> None:  # fmt: skip
        tensors = (adv, momentum, grad, origin) if mask is None else (adv, momentum, grad, origin, mask)
        batch, count, walk = _walk(collapse(*tensors))
        native.momentum_step(
            adv.data_ptr(), momentum.data_ptr(), grad.data_ptr(), origin.data_ptr(),
            0 if mask is None else mask.data_ptr(), batch, count, walk, DTYPES[adv.dtype], NORMS[norm],
            *_scalar(eps), *_scalar(step), *_scalar(decay), *bounds, torch.get_num_threads(),
        )  # fmt: skip

    def accumulate(total: Tensor, grad: Tensor, keep: Scalar, weight: Scalar) -> None:
        batch, count, walk = _walk(collapse(total, grad))
        native.accumulate(
            total.data_ptr(), grad.data_ptr(), batch, count, walk, DTYPES[total.dtype], *_scalar(keep),
            *_scalar(weight), torch.get_num_threads(),
        )  # fmt: skip

    def apgd_step(
        adv: Tensor, previous: Tensor, grad: Tensor, origin: Tensor, mask: Tensor | None, norm: str, eps: Scalar,
        step: Scalar, momentum: Scalar, bounds: Bounds,
    ) -> None:  # fmt: skip
        tensors = (adv, previous, grad, origin)
        batch, count, walk = _walk(collapse(*tensors, *(() if mask is None else (mask,))))
        native.apgd_step(
            adv.data_ptr(), previous.data_ptr(), grad.data_ptr(), origin.data_ptr(),
            0 if mask is None else mask.data_ptr(), batch, count, walk, DTYPES[adv.dtype], NORMS[norm],
            *_scalar(eps), *_scalar(step), *_scalar(momentum), *bounds, torch.get_num_threads(),
        )  # fmt: skip

    def zero_mean_step(adv: Tensor, grad: Tensor | None, origin: Tensor, eps: Scalar, step: Scalar) -> None:
        if grad is None:  # a step of length 0 along anything
            grad, step = origin, 0.0
        batch, count, walk = _walk(collapse(adv, grad, origin))
        native.zero_mean_step(
            adv.data_ptr(), grad.data_ptr(), origin.data_ptr(), batch, count, walk, DTYPES[adv.dtype], *_scalar(eps),
            *_scalar(step), torch.get_num_threads(),
        )  # fmt: skip

    def quantise(
        adv: Tensor, origin: Tensor, mask: Tensor | None, norm: str, eps: Scalar, bits: int, bounds: Bounds
    ) -> None:
        tensors = (adv, origin) if mask is None else (adv, origin, mask)
        batch, count, walk = _walk(collapse(*tensors))
        native.quantise(
            adv.data_ptr(), origin.data_ptr(), 0 if mask is None else mask.data_ptr(), batch, count, walk,
            DTYPES[adv.dtype], NORMS["linf" if norm == "linf" else "l2"], *_scalar(eps), *bounds, 2**bits - 1,
            torch.get_num_threads(),
        )  # fmt: skip

    def l1_project(adv: Tensor, origin: Tensor, mask: Tensor | None, eps: Scalar, bounds: Bounds) -> None:
        tensors = (adv, origin) if mask is None else (adv, origin, mask)
        batch, count, walk = _walk(collapse(*tensors))
        native.l1_project(
            adv.data_ptr(), origin.data_ptr(), 0 if mask is None else mask.data_ptr(), batch, count, walk,
            DTYPES[adv.dtype], *_scalar(eps), *bounds, torch.get_num_threads(),
        )  # fmt: skip

    def l1_step(
        adv: Tensor, grad: Tensor, origin: Tensor, mask: Tensor | None, eps: Scalar, step: Scalar, keep: Scalar,
        bounds: Bounds,
    ) -> None:  # fmt: skip
        tensors = (adv, grad, origin) if mask is None else (adv, grad, origin, mask)
        batch, count, walk = _walk(collapse(*tensors))
        native.l1_step(
            adv.data_ptr(), grad.data_ptr(), origin.data_ptr(), 0 if mask is None else mask.data_ptr(), batch, count,
            walk, DTYPES[adv.dtype], *_scalar(eps), *_scalar(step), *_scalar(keep), *bounds, torch.get_num_threads(),
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
