"""What the cuda and cupy backends share: tensors become rows of 8-byte words, ops become launches of named kernels.

The words of each argument follow the struct of the same name in csrc/cuda; integers and pointers are packed as int64,
floats as float64.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from .backend import Bounds, Scalar
from .layout import collapse
from .reference_noise import ROUNDS
from .reference_steps import power_of_two_scale, real_dtype

Words = list[int | float]
Launch = Callable[[str, str, int, bytes], None]
"""(stem, kernel, blocks, argument): launches ``kernel``, of <stem>.cuh, on the current stream."""
Session = Callable[[torch.device], AbstractContextManager[Launch]]
"""Makes a device current and gives the means to launch on it."""
Stream = Callable[[torch.device], AbstractContextManager[int]]
"""Makes a device current and gives its stream's handle."""

THREADS = 256  # as in common.cuh
STORAGE = {
    torch.float16: "half_t",
    torch.bfloat16: "bfloat_t",
    torch.float32: "float",
    torch.float64: "double",
}
KERNELS = {
    "pgd_step": ("pgd_step_linf_kernel", "pgd_step_sums_kernel", "pgd_step_l2_kernel"),
    "project": ("project_linf_kernel", "project_sums_kernel", "project_l2_kernel"),
    "preserve_noise": (
        "preserve_noise_moments_kernel",
        "preserve_noise_round_kernel",
        "preserve_noise_linf_kernel",
        "preserve_noise_l2_kernel",
    ),
    "noise_stats": ("noise_stats_sums_kernel", "noise_stats_kernel"),
    "distances": ("distances_sums_kernel", "distances_kernel"),
    "random_start": ("random_start_linf_kernel", "random_start_sums_kernel", "random_start_l2_kernel"),
    "typical_noise": ("typical_noise_sums_kernel", "typical_noise_kernel"),
    "diffusion_step": ("diffusion_step_kernel",),
    "momentum_step": (
        "momentum_step_magnitudes_kernel",
        "momentum_step_linf_kernel",
        "momentum_step_sums_kernel",
    ),
    "accumulate": ("accumulate_kernel",),
    "apgd_step": (
        "apgd_step_linf_kernel",
        "apgd_step_sums_kernel",
        "apgd_step_measure_kernel",
        "apgd_step_l2_kernel",
    ),
    "zero_mean_step": ("zero_mean_step_sums_kernel", "zero_mean_step_kernel"),
    "quantise": ("quantise_kernel",),
    "l1_project": ("l1_project_sums_kernel", "l1_project_round_kernel", "l1_project_kernel"),
    "l1_step": ("l1_step_count_kernel", "l1_step_kernel"),
}

_TILE = 16 * THREADS  # elements: enough to hide the cost of a block
_TILES_SUMMED = 256  # every block of the next kernel reads all partials of its sample
_TILES = 1 << 16
_STRIDED, _FLAT, _VECTORS = 0, 1, 2
# doubles in StepSums, project's sum, PreserveSums, NoiseSums, random_start's sum, NormalSums, PreserveRecord
_SUMS = {"pgd_step": 3, "project": 1, "preserve_noise": 6, "noise_stats": 5, "random_start": 1, "typical_noise": 2}
_RECORD = 17
_NO_SCALE: Words = [0, 1.0]


@dataclass(frozen=True, slots=True)
class Samples:
    """The struct `Samples` of common.cuh: tensors that are walked together."""

    words: Words
    batch: int
    tiles: int
    storage: str


@contextmanager
def current_stream(device: torch.device) -> Iterator[int]:
    """Torch's current stream on ``device``, which is made current."""
    with torch.cuda.device(device):
        yield torch.cuda.current_stream(device).cuda_stream


def pack(words: Words) -> bytes:
    signed = [w - (1 << 64) if isinstance(w, int) and w >> 63 > 0 else w for w in words]
    return struct.pack("=" + "".join("d" if isinstance(w, float) else "q" for w in signed), *signed)


def per_sample(value: Scalar) -> Words:
    """The struct `PerSample`. The tensor must outlive the launch, as the caller's does."""
    return [value.data_ptr(), 0.0] if isinstance(value, Tensor) else [0, float(value)]


@contextmanager
def samples(
    *tensors: Tensor, mask: Tensor | None = None, keep_order: bool = False, summed: bool = False
) -> Iterator[Samples]:
    """The tensors as words; a first tensor that had to be copied is written back at the end."""
    every = tensors if mask is None else (*tensors, mask)
    layout = collapse(*every, keep_order=keep_order)
    if layout is None:
        every = tuple(t.contiguous() for t in every)
        layout = collapse(*every)
        assert layout is not None, "contiguous tensors are one run"
    pointers = [t.data_ptr() for t in every]
    width = 16 // tensors[0].element_size()
    lines = all(p % 16 == 0 for p in pointers) and all(w[0] % width == 0 for w in layout.strides)
    whole = mask is None and layout.count % width == 0
    walk = (_VECTORS if lines and whole else _FLAT) if layout.flat else _STRIDED
    tiles = max(1, min(_TILES_SUMMED if summed else _TILES, -(-layout.count // _TILE)))
    if mask is None:
        pointers.append(0)
    words: Words = [*pointers, layout.batch, layout.count, tiles, walk, *layout.sizes]
    for strides in layout.strides if mask is not None else (*layout.strides, (0,) * 5):
        words.extend(strides)
    yield Samples(words, layout.batch, tiles, STORAGE[tensors[0].dtype])
    if every[0] is not tensors[0]:
        tensors[0].copy_(every[0])


def doubles(like: Tensor, count: int) -> Tensor:
    """Workspace; torch's allocator keeps it from being reused on this stream before the kernels have run."""
    return torch.empty(count, dtype=torch.float64, device=like.device)


def scale_of(*tensors: Tensor) -> Tensor | None:
    """Powers of two (B,) that keep squares of float64 data in range; the other types need none."""
    return power_of_two_scale(*tensors).reshape(-1) if tensors[0].dtype is torch.float64 else None


def scale_words(scale: Tensor | None) -> Words:
    return _NO_SCALE if scale is None else per_sample(scale)


@dataclass(frozen=True, slots=True)
class Launcher:
    """The ops on top of a way to launch kernels."""

    session: Session

    def run(self, like: Tensor, at: Samples, argument: Words, stem: str, *parts: str) -> None:
        packed = pack([*at.words, *argument])
        with self.session(like.device) as launch:
            for part in parts:
                name = f"{stem}_{part}" if part else stem
                launch(stem, f"{name}_kernel<{at.storage}>", at.batch * at.tiles, packed)

    def pgd_step(
        self,
        adv: Tensor,
        grad: Tensor,
        origin: Tensor,
        mask: Tensor | None,
        norm: str,
        eps: Scalar,
        step: Scalar,
        bounds: Bounds,
    ) -> None:
        l2 = norm == "l2"
        with samples(adv, grad, origin, mask=mask, summed=l2) as at:
            words = [*per_sample(eps), *per_sample(step), *map(float, bounds)]
            if not l2:
                self.run(adv, at, [*words, *_NO_SCALE, *_NO_SCALE, 0], "pgd_step", "linf")
                return
            climbed = grad if mask is None or grad.dtype is not torch.float64 else grad.where(mask, 0)
            grad_scale, delta_scale = scale_of(climbed), scale_of(adv, origin)
            partials = doubles(adv, at.batch * at.tiles * _SUMS["pgd_step"])
            words += [*scale_words(grad_scale), *scale_words(delta_scale), partials.data_ptr()]
            self.run(adv, at, words, "pgd_step", "sums", "l2")

    def project(self, adv: Tensor, origin: Tensor, mask: Tensor | None, norm: str, eps: Scalar, bounds: Bounds) -> None:
        l2 = norm == "l2"
        with samples(adv, origin, mask=mask, summed=l2) as at:
            words = [*per_sample(eps), *map(float, bounds)]
            if not l2:
                self.run(adv, at, [*words, *_NO_SCALE, 0], "project", "linf")
                return
            scale = scale_of(adv, origin)
            partials = doubles(adv, at.batch * at.tiles * _SUMS["project"])
            words += [*scale_words(scale), partials.data_ptr()]
            self.run(adv, at, words, "project", "sums", "l2")

    def preserve_noise(self, adv: Tensor, origin: Tensor, clean: Tensor, norm: str, eps: Scalar) -> None:
        with samples(adv, origin, clean, summed=True) as at, self.session(adv.device) as launch:
            records = doubles(adv, 2 * at.batch * _RECORD)
            partials = doubles(adv, 2 * at.batch * at.tiles * _SUMS["preserve_noise"])
            shared = pack([*at.words, *per_sample(eps), records.data_ptr(), partials.data_ptr()])

            def go(part: str, number: int = 0) -> None:
                kernel = f"preserve_noise_{part}_kernel<{at.storage}>"
                launch("preserve_noise", kernel, at.batch * at.tiles, shared + pack([number]))

            go("moments")
            if norm == "l2":
                go("l2")
                return
            for number in range(ROUNDS):
                go("round", number)
            go("linf", ROUNDS)

    def noise_stats(self, noise: Tensor, sigma: Scalar, mean: Scalar) -> Tensor:
        with samples(noise, summed=True) as at, self.session(noise.device) as launch:
            scale = scale_of(noise)
            partials = doubles(noise, at.batch * at.tiles * _SUMS["noise_stats"])
            out = torch.empty((at.batch, 6), dtype=real_dtype(noise.dtype), device=noise.device)
            words = [*at.words, *per_sample(sigma), *per_sample(mean), *scale_words(scale)]
            packed = pack([*words, partials.data_ptr(), out.data_ptr()])
            launch("noise_stats", f"noise_stats_sums_kernel<{at.storage}>", at.batch * at.tiles, packed)
            launch("noise_stats", f"noise_stats_kernel<{at.storage}>", at.batch, packed)
        return out

    def random_start(
        self,
        adv: Tensor,
        origin: Tensor,
        norm: str,
        eps: Scalar,
        bounds: Bounds,
        seed: int,
        sample_ids: Tensor | None,
    ) -> None:
        l2 = norm == "l2"
        with samples(adv, origin, keep_order=True, summed=l2) as at:
            ids = 0 if sample_ids is None else sample_ids.data_ptr()
            words = [*per_sample(eps), *map(float, bounds), seed, ids]
            if not l2:
                self.run(adv, at, [*words, 0], "random_start", "linf")
                return
            partials = doubles(adv, at.batch * at.tiles * _SUMS["random_start"])
            self.run(adv, at, [*words, partials.data_ptr()], "random_start", "sums", "l2")

    def typical_noise(
        self,
        out: Tensor,
        clean: Tensor | None,
        sigma: Scalar,
        typicality: Scalar,
        mean: Scalar,
        seed: int,
        sample_ids: Tensor | None,
    ) -> None:
        plain = isinstance(typicality, float) and math.isnan(typicality)
        with samples(out, out if clean is None else clean, keep_order=True, summed=not plain) as at:
            words = [0 if clean is None else 1, *per_sample(sigma), *per_sample(typicality), *per_sample(mean)]
            words += [seed, 0 if sample_ids is None else sample_ids.data_ptr()]
            if plain:
                self.run(out, at, [*words, 0], "typical_noise", "")
                return
            partials = doubles(out, at.batch * at.tiles * _SUMS["typical_noise"])
            self.run(out, at, [*words, partials.data_ptr()], "typical_noise", "sums", "")
