"""The C++ kernels; see csrc/cpu. Import torch first: it and this module then share one OpenMP runtime.

``tensors``: a tuple of contiguous or strided CPU tensors of one shape, None where there is none. ``eps`` and the like:
a float, or a contiguous float64 tensor (B,).
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

Tensors = tuple[Tensor | None, ...]
PerSample = float | Tensor
Bounds = tuple[float, float]

openmp: bool

def instruction_set() -> str: ...
def use_instruction_set(name: str) -> None: ...
def use_torch(tensor: type, dtypes: dict[Any, int], walk: Callable[[Tensors, bool], tuple[Any, ...]]) -> None:
    """``walk(tensors, keep_order)``: (dtype, batch, (4 sizes), a (pointer, (5 strides)) or None for each tensor)."""

def fit(tensors: tuple[Any, ...], writes: int, /) -> bool:
    """Whether the tensors surely pass check.images, and check.require_writable for the first ``writes`` of them.

    Surely: False says nothing. Always False before use_torch, and where torch has no DLPack exchange API.
    """

def triad(a: int, b: int, c: int, count: int, threads: int) -> None: ...
def pgd_step(tensors: Tensors, norm: int, eps: PerSample, step: PerSample, bounds: Bounds, threads: int, /) -> None: ...
def project(tensors: Tensors, norm: int, eps: PerSample, bounds: Bounds, threads: int, /) -> None: ...
def preserve_noise(tensors: Tensors, norm: int, eps: PerSample, threads: int, /) -> None: ...
def noise_stats(tensors: Tensors, out: int, sigma: PerSample, mean: PerSample, threads: int, /) -> None: ...
def distances(tensors: Tensors, out: int, threads: int, /) -> None: ...
def random_start(
    tensors: Tensors, norm: int, eps: PerSample, bounds: Bounds, seed: int, sample_ids: int, threads: int, /
) -> None: ...
def typical_noise(
    tensors: Tensors,
    sigma: PerSample,
    typicality: PerSample,
    mean: PerSample,
    seed: int,
    sample_ids: int,
    threads: int,
    /,
) -> None: ...
def diffusion_step(
    tensors: Tensors,
    a: PerSample,
    b: PerSample,
    c: PerSample,
    seed: int,
    step: int,
    sample_ids: int,
    threads: int,
    /,
) -> None: ...
def momentum_step(
    tensors: Tensors,
    norm: int,
    eps: PerSample,
    step: PerSample,
    decay: PerSample,
    bounds: Bounds,
    threads: int,
    /,
) -> None: ...
def accumulate(tensors: Tensors, keep: PerSample, weight: PerSample, threads: int, /) -> None: ...
def apgd_step(
    tensors: Tensors,
    norm: int,
    eps: PerSample,
    step: PerSample,
    momentum: PerSample,
    bounds: Bounds,
    threads: int,
    /,
) -> None: ...
def zero_mean_step(tensors: Tensors, eps: PerSample, step: PerSample, threads: int, /) -> None: ...
def quantise(tensors: Tensors, norm: int, eps: PerSample, bounds: Bounds, levels: float, threads: int, /) -> None: ...
def l1_project(tensors: Tensors, eps: PerSample, bounds: Bounds, threads: int, /) -> None: ...
def l1_step(
    tensors: Tensors, eps: PerSample, step: PerSample, keep: PerSample, bounds: Bounds, threads: int, /
) -> None: ...
