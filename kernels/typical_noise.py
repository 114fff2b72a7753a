"""Noise on its shell, added to clean images or alone: typical_noise.h, to the bit.

Two launches that make the same normals; where every sample asks for plain noise the second goes alone. Normals and
their squares are summed as whole numbers held in float64, so that no order of the sum changes a bit.
"""

import triton
import triton.language as tl

from .common import BLOCK, load, offsets, per_sample, place, put_sums, round_to, take_sum, walk
from .numbers import identity, normals, square_grid

STREAM = tl.constexpr(2)  # STREAM_TYPICAL_NOISE
MAGIC = tl.constexpr(6755399441055744.0)  # 1.5 * 2^52: beyond it float64 holds whole numbers only


@triton.jit
def nearest_whole(x):
    """The whole number nearest to a float64, ties to even."""
    return (x + MAGIC) - MAGIC


@triton.jit(do_not_specialize=["seed"])
def typical_sums(
    sums_ptr,  # [B, 2, tiles] float64, written: sums of normals and of their squares, on their grids
    ids_ptr,  # [B] int64, or None for 0 .. B-1
    seed: tl.uint64,
    count: tl.int64,
    tiles,
):
    sample, tile = place(tiles)
    sample_id = identity(ids_ptr, sample)
    grid = square_grid(count)
    total = tl.zeros((BLOCK,), tl.float64)
    square = tl.zeros((BLOCK,), tl.float64)
    for block in range(tile, tl.cdiv(count, BLOCK), tiles):
        _, live = walk(block, count)
        n = tl.where(live, normals(block, sample_id, seed, STREAM), 0.0).to(tl.float64)
        total += nearest_whole(n * (8.0 * grid))
        square += nearest_whole(n * n * grid)
    put_sums(sums_ptr, (total, square), sample, tile, tiles, 2)


@triton.jit
def shell_of(sums_ptr, sample, tiles, count, sigma, typicality, mean):
    """(scale, shift) of the noise scale * normal + shift; a typicality that is NaN asks for plain noise."""
    grid = square_grid(count)
    elements = tl.cast(count, tl.float64)
    centre = take_sum(sums_ptr, sample, tiles, 0, 2) / (8.0 * grid) / elements
    square = take_sum(sums_ptr, sample, tiles, 1, 2) / grid - elements * centre * centre
    scale = sigma * tl.sqrt(elements * (1.0 + 2.0 * typicality)) / tl.sqrt(square)
    plain = typicality != typicality
    return tl.where(plain, sigma, scale), tl.where(plain, mean, mean - scale * centre)


@triton.jit(do_not_specialize=["seed"])
def typical_write(
    out_ptr,  # [B, ...] written
    clean_ptr,  # [B, ...], or None
    sums_ptr,  # [B, 2, tiles] float64 from typical_sums; None where every sample is plain
    ids_ptr,  # [B] int64, or None for 0 .. B-1
    seed: tl.uint64,
    sigma: tl.float64,
    sigma_ptr,  # [B] float64, or None
    typicality: tl.float64,
    typicality_ptr,  # [B] float64, or None
    mean: tl.float64,
    mean_ptr,  # [B] float64, or None
    count: tl.int64,
    sizes,
    strides,
    tiles,
    INDEX: tl.constexpr,
):
    sample, tile = place(tiles)
    sample_id = identity(ids_ptr, sample)
    REAL: tl.constexpr = tl.float64 if out_ptr.dtype.element_ty == tl.float64 else tl.float32
    scale, shift = per_sample(sigma, sigma_ptr, sample), per_sample(mean, mean_ptr, sample)
    if sums_ptr is not None:
        gap = per_sample(typicality, typicality_ptr, sample)
        scale, shift = shell_of(sums_ptr, sample, tiles, count, scale, gap, shift)
    for block in range(tile, tl.cdiv(count, BLOCK), tiles):
        index, live = walk(block, count)
        x = scale.to(REAL) * normals(block, sample_id, seed, STREAM).to(REAL) + shift.to(REAL)
        if clean_ptr is not None:
            x = load(clean_ptr, offsets(index, sample, sizes, strides[1], INDEX), live) + x
        at = offsets(index, sample, sizes, strides[0], INDEX)
        tl.store(out_ptr + at, round_to(x, out_ptr.dtype.element_ty), mask=live)
