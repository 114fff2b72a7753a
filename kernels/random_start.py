"""A uniform point of the ball, from Philox 4x32-10: random_start.h, to the bit.

l2 takes two launches that make the same normals; squares are summed as integers held in float64, so that no order of
the sum changes a bit.
"""

import triton
import triton.language as tl

from .common import (
    BLOCK,
    SHRINK_MARGIN,
    add_inward,
    load,
    offsets,
    per_sample,
    place,
    put_sums,
    store_within,
    take_sum,
    walk,
)
from .numbers import counters, identity, in_order, normal_pair, normals, philox, square_grid

STREAM = tl.constexpr(1)  # STREAM_RANDOM_START
EXTRA = tl.constexpr(0xFFFFFFFF)  # the counter of the two coordinates beyond the sample's own


@triton.jit
def symmetric_uniform(word):
    """Uniform on (-1, 1): an odd multiple of 2^-24 from the upper 24 bits."""
    odd = ((word >> 8) * 2 + 1).to(tl.int32) - (1 << 24)
    return odd.to(tl.float32) * 2.0**-24


@triton.jit
def on_grid(normal, grid):
    """The square as an integer, ties upwards."""
    n = normal.to(tl.float64)
    return tl.floor(n * n * grid + 0.5)


@triton.jit(do_not_specialize=["seed"])
def start_linf(
    adv_ptr,  # [B, ...] written
    origin_ptr,  # [B, ...]
    ids_ptr,  # [B] int64, or None for 0 .. B-1
    seed: tl.uint64,
    eps: tl.float64,
    eps_ptr,  # [B] float64, or None
    low: tl.float64,
    high: tl.float64,
    count: tl.int64,
    sizes,
    strides,
    tiles,
    INDEX: tl.constexpr,
):
    sample, tile = place(tiles)
    index, live = walk(tile, count)
    origin = load(origin_ptr, offsets(index, sample, sizes, strides[1], INDEX), live)
    w0, w1, w2, w3 = philox(counters(tile), identity(ids_ptr, sample), seed, STREAM)
    uniform = symmetric_uniform(in_order(w0, w1, w2, w3))
    delta = per_sample(eps, eps_ptr, sample).to(origin.dtype) * uniform.to(origin.dtype)
    x = add_inward(origin, delta, adv_ptr.dtype.element_ty)
    at = offsets(index, sample, sizes, strides[0], INDEX)
    store_within(adv_ptr, at, x, origin, live, live, low, high)


@triton.jit(do_not_specialize=["seed"])
def start_squares(
    sums_ptr,  # [B, 1, tiles] float64, written: sums of squared normals on their grid
    ids_ptr,  # [B] int64, or None for 0 .. B-1
    seed: tl.uint64,
    count: tl.int64,
    tiles,
):
    sample, tile = place(tiles)
    sample_id = identity(ids_ptr, sample)
    grid = square_grid(count)
    total = tl.zeros((BLOCK,), tl.float64)
    for block in range(tile, tl.cdiv(count, BLOCK), tiles):
        _, live = walk(block, count)
        total += tl.where(live, on_grid(normals(block, sample_id, seed, STREAM), grid), 0.0)
    put_sums(sums_ptr, (total,), sample, tile, tiles, 1)


@triton.jit(do_not_specialize=["seed"])
def start_l2(
    adv_ptr,  # [B, ...] written
    origin_ptr,  # [B, ...]
    sums_ptr,  # [B, 1, tiles] float64 from start_squares
    ids_ptr,  # [B] int64, or None for 0 .. B-1
    seed: tl.uint64,
    eps: tl.float64,
    eps_ptr,  # [B] float64, or None
    low: tl.float64,
    high: tl.float64,
    count: tl.int64,
    sizes,
    strides,
    tiles,
    INDEX: tl.constexpr,
):
    sample, tile = place(tiles)
    sample_id = identity(ids_ptr, sample)
    grid = square_grid(count)
    w0, w1, _, _ = philox(tl.full((), EXTRA, tl.uint32), sample_id, seed, STREAM)
    extra_a, extra_b = normal_pair(w0, w1)
    total = take_sum(sums_ptr, sample, tiles, 0, 1) + (on_grid(extra_a, grid) + on_grid(extra_b, grid))
    scale = tl.where(total > 0, per_sample(eps, eps_ptr, sample) / tl.sqrt(total / grid) * SHRINK_MARGIN, 0.0)
    for block in range(tile, tl.cdiv(count, BLOCK), tiles):
        index, live = walk(block, count)
        origin = load(origin_ptr, offsets(index, sample, sizes, strides[1], INDEX), live)
        delta = scale.to(origin.dtype) * normals(block, sample_id, seed, STREAM).to(origin.dtype)
        x = add_inward(origin, delta, adv_ptr.dtype.element_ty)
        at = offsets(index, sample, sizes, strides[0], INDEX)
        store_within(adv_ptr, at, x, origin, live, live, low, high)
