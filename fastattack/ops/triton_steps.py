"""Launches the Triton kernels of kernels/ (installed as fastattack.kernels). No arithmetic here, and no host sync.

float16, bfloat16 and float32 are computed in float32, float64 in float64, sums always in float64. Without a reduction
the results are those of `reference` to the bit, and so are random_start and typical_noise; other sums may differ in
their last bits.
"""

from __future__ import annotations

import functools
import importlib
import math
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from .backend import Bounds, Scalar
from .layout import Layout, collapse

NUM_WARPS = 8  # of 1024-element blocks: four elements a thread, 16 bytes of float32


@functools.cache
def _kernels() -> Any:
    return importlib.import_module("..kernels", __package__)


def _layout(*tensors: Tensor, keep_order: bool = False) -> Layout:
    layout = collapse(*tensors, keep_order=keep_order)
    if layout is None:
        raise ValueError(f"more than four inner dimensions that do not merge, shape {tuple(tensors[0].shape)}")
    return layout


def _blocks(layout: Layout) -> int:
    """Programs a sample where each takes one block."""
    return -(-layout.count // int(_kernels().BLOCK.value))


def _tiles(layout: Layout) -> int:
    """Programs a sample where their partial sums are added up. It depends on the sample alone, never on the batch."""
    return min(_blocks(layout), int(_kernels().MAX_TILES.value))


def _walk(layout: Layout, tiles: int) -> tuple[Any, ...]:
    """The last arguments of every kernel that reads images: count, sizes, strides, tiles, INDEX."""
    import triton.language as tl

    index = None if layout.flat else tl.int32 if layout.count < 2**31 else tl.int64
    return layout.count, layout.sizes, layout.strides, tiles, index


def _number(value: Scalar) -> tuple[float, Tensor | None]:
    """A scalar argument and the pointer beside it: no tensor is made of a float."""
    return (0.0, value) if isinstance(value, Tensor) else (float(value), None)


def _with_mask(*tensors: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
    return tensors if mask is None else (*tensors, mask)


def _bytes(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.view(torch.uint8)


def _partials(like: Tensor, *sizes: int) -> Tensor:
    return torch.empty(sizes, dtype=torch.float64, device=like.device)


def _surroundings(tensor: Tensor) -> AbstractContextManager[Any]:
    if tensor.is_cuda:
        return torch.cuda.device(tensor.device)
    import numpy  # the interpreter runs on it, and warns of divisions whose result is not selected

    return numpy.errstate(all="ignore")


def _launch(kernel: Any, programs: int, like: Tensor, *args: Any) -> None:
    with _surroundings(like):
        kernel[(programs,)](*args, num_warps=NUM_WARPS, enable_fp_fusion=False)


def _largest(x: Tensor, y: Tensor | None = None, mask: Tensor | None = None) -> Tensor | None:
    """Largest |entry| per tile, from which float64 sums take their scale; other types need none."""
    if x.dtype is not torch.float64:
        return None
    tensors = (x,) if y is None else (x, y)
    layout = _layout(*_with_mask(*tensors, mask=mask))
    tiles = _tiles(layout)
    out = _partials(x, layout.batch, tiles)
    _launch(_kernels().largest, layout.batch * tiles, x, x, y, _bytes(mask), out, *_walk(layout, tiles))
    return out


def pgd_step(
    adv: Tensor,
    grad: Tensor,
    origin: Tensor,
    mask: Tensor | None,
    norm: str,
    eps: Scalar,
    step: Scalar,
    bounds: Bounds,
) -> None:
    k, layout = _kernels(), _layout(*_with_mask(adv, grad, origin, mask=mask))
    images = (adv, grad, origin, _bytes(mask))
    limits = (*_number(eps), *_number(step), *bounds)
    if norm == "linf":
        blocks = _blocks(layout)
        _launch(k.pgd_step_linf, layout.batch * blocks, adv, *images, *limits, *_walk(layout, blocks))
        return
    tiles = _tiles(layout)
    largest = (_largest(grad, mask=mask), _largest(adv, origin))
    sums = _partials(adv, layout.batch, 3, tiles)
    walk, programs = _walk(layout, tiles), layout.batch * tiles
    _launch(k.pgd_step_sums, programs, adv, *images, *largest, sums, *walk)
    _launch(k.pgd_step_l2, programs, adv, *images, *largest, sums, *limits, *walk)


def project(adv: Tensor, origin: Tensor, mask: Tensor | None, norm: str, eps: Scalar, bounds: Bounds) -> None:
    k, layout = _kernels(), _layout(*_with_mask(adv, origin, mask=mask))
    images = (adv, origin, _bytes(mask))
    limits = (*_number(eps), *bounds)
    if norm == "linf":
        blocks = _blocks(layout)
        _launch(k.project_linf, layout.batch * blocks, adv, *images, *limits, *_walk(layout, blocks))
        return
    tiles = _tiles(layout)
    largest = _largest(adv, origin)
    sums = _partials(adv, layout.batch, 1, tiles)
    walk, programs = _walk(layout, tiles), layout.batch * tiles
    _launch(k.project_sums, programs, adv, *images, largest, sums, *walk)
    _launch(k.project_l2, programs, adv, *images, largest, sums, *limits, *walk)


def preserve_noise(adv: Tensor, origin: Tensor, clean: Tensor, norm: str, eps: Scalar) -> None:
    k, images = _kernels(), (adv, origin, clean)
    layout = _layout(*images)
    tiles = _tiles(layout)
    walk, programs = _walk(layout, tiles), layout.batch * tiles
    moments = _partials(adv, layout.batch, k.MOMENTS.value, tiles)
    _launch(k.preserve_moments, programs, adv, *images, moments, *walk)
    if norm == "l2":
        _launch(k.preserve_l2, programs, adv, *images, moments, *_number(eps), *walk)
        return
    # A round reads what the one before wrote, and writes the other buffer.
    states = _partials(adv, 2, layout.batch, k.STATE.value)
    sums = _partials(adv, 2, layout.batch, k.SUMS.value, tiles)
    before: tuple[Tensor | None, ...] = (moments, None, None)
    after = (states[0], sums[0])
    for turn in range(k.ROUNDS.value):
        after = (states[turn % 2], sums[turn % 2])
        _launch(k.preserve_round, programs, adv, *images, *before, *after, *_number(eps), *walk)
        before = (None, *after)
    _launch(k.preserve_linf, programs, adv, *images, *after, *_number(eps), *walk)


def noise_stats(noise: Tensor, sigma: Scalar, mean: Scalar) -> Tensor:
    k, layout = _kernels(), _layout(noise)
    tiles = _tiles(layout)
    largest = _largest(noise)
    sums, top = _partials(noise, layout.batch, 4, tiles), _partials(noise, layout.batch, tiles)
    real = torch.float64 if noise.dtype is torch.float64 else torch.float32
    out = torch.empty((layout.batch, 6), dtype=real, device=noise.device)
    walk = _walk(layout, tiles)
    _launch(k.noise_sums, layout.batch * tiles, noise, noise, largest, sums, top, *_number(mean), *walk)
    numbers = (*_number(sigma), *_number(mean))
    _launch(k.noise_finish, layout.batch, noise, largest, sums, top, out, *numbers, layout.count, tiles)
    return out


def random_start(
    adv: Tensor, origin: Tensor, norm: str, eps: Scalar, bounds: Bounds, seed: int, sample_ids: Tensor | None
) -> None:
    k, layout = _kernels(), _layout(adv, origin, keep_order=True)
    limits = (*_number(eps), *bounds)
    if norm == "linf":
        blocks = _blocks(layout)
        walk, programs = _walk(layout, blocks), layout.batch * blocks
        _launch(k.start_linf, programs, adv, adv, origin, sample_ids, seed, *limits, *walk)
        return
    tiles = _tiles(layout)
    sums = _partials(adv, layout.batch, 1, tiles)
    walk, programs = _walk(layout, tiles), layout.batch * tiles
    _launch(k.start_squares, programs, adv, sums, sample_ids, seed, layout.count, tiles)
    _launch(k.start_l2, programs, adv, adv, origin, sums, sample_ids, seed, *limits, *walk)


def typical_noise(
    out: Tensor,
    clean: Tensor | None,
    sigma: Scalar,
    typicality: Scalar,
    mean: Scalar,
    seed: int,
    sample_ids: Tensor | None,
) -> None:
    k, layout = _kernels(), _layout(*((out,) if clean is None else (out, clean)), keep_order=True)
    images, numbers = (out, clean), (*_number(sigma), *_number(typicality), *_number(mean))
    if isinstance(typicality, float) and math.isnan(typicality):
        blocks = _blocks(layout)
        walk, programs = _walk(layout, blocks), layout.batch * blocks
        _launch(k.typical_write, programs, out, *images, None, sample_ids, seed, *numbers, *walk)
        return
    tiles = _tiles(layout)
    sums = _partials(out, layout.batch, 2, tiles)
    walk, programs = _walk(layout, tiles), layout.batch * tiles
    _launch(k.typical_sums, programs, out, sums, sample_ids, seed, layout.count, tiles)
    _launch(k.typical_write, programs, out, *images, sums, sample_ids, seed, *numbers, *walk)
