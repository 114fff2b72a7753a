"""Mean squared error and norms of the difference of two samples: distances.h. One pass of sums, then the end."""

import triton
import triton.language as tl

from .common import BLOCK, load, load_parts, max_magnitude, offsets, place, put_sums, take_sum, walk

DISTANCE_SUMS = tl.constexpr(4)  # d^2, (d / REACH)^2, (d * REACH)^2, |d|
REACH = tl.constexpr(2.0**600)


@triton.jit
def distance_sums(
    a_ptr,  # [B, ...]
    b_ptr,  # [B, ...]
    sums_ptr,  # [B, DISTANCE_SUMS, tiles] float64, written
    top_ptr,  # [B, tiles] float64, written: max |a - b|
    count: tl.int64,
    sizes,
    strides,
    tiles,
    INDEX: tl.constexpr,
):
    WIDE: tl.constexpr = a_ptr.dtype.element_ty.is_fp64()  # whose squares can leave the range
    sample, tile = place(tiles)
    square = tl.zeros((BLOCK,), tl.float64)
    shrunk = tl.zeros((BLOCK,), tl.float64)
    grown = tl.zeros((BLOCK,), tl.float64)
    absolute = tl.zeros((BLOCK,), tl.float64)
    top = tl.zeros((BLOCK,), tl.int64)
    for block in range(tile, tl.cdiv(count, BLOCK), tiles):
        index, live = walk(block, count)
        a = load(a_ptr, offsets(index, sample, sizes, strides[0], INDEX), live).to(tl.float64)
        b = load(b_ptr, offsets(index, sample, sizes, strides[1], INDEX), live).to(tl.float64)
        d = a - b
        size = tl.abs(d)
        square += d * d
        if WIDE:
            reach = tl.full((), REACH, tl.float64)
            less, more = d * (1.0 / reach), d * reach
            shrunk += less * less
            grown += more * more
        absolute += size
        top = tl.maximum(top, size.to(tl.int64, bitcast=True))
    put_sums(sums_ptr, (square, shrunk, grown, absolute), sample, tile, tiles, DISTANCE_SUMS)
    tl.store(top_ptr + sample * tiles + tile, max_magnitude(top.to(tl.float64, bitcast=True)))


@triton.jit
def distance_finish(
    sums_ptr,  # [B, DISTANCE_SUMS, tiles] float64 from distance_sums
    top_ptr,  # [B, tiles] float64 from distance_sums
    out_ptr,  # [B, 4] float64, written: mse, l1, l2, linf
    count: tl.int64,
    tiles,
):
    sample = tl.program_id(0).to(tl.int64)
    square = take_sum(sums_ptr, sample, tiles, 0, DISTANCE_SUMS)
    shrunk = take_sum(sums_ptr, sample, tiles, 1, DISTANCE_SUMS)
    grown = take_sum(sums_ptr, sample, tiles, 2, DISTANCE_SUMS)
    reach, one = tl.full((), REACH, tl.float64), tl.full((), 1.0, tl.float64)
    large, small = (square > 1e290) & (shrunk > 0), (square < 1e-200) & (grown > 0)
    unit = tl.where(large, reach, tl.where(small, one / reach, one))
    square = tl.where(large, shrunk, tl.where(small, grown, square))
    out = out_ptr + sample * 4
    tl.store(out, square / tl.cast(count, tl.float64) * unit * unit)
    tl.store(out + 1, take_sum(sums_ptr, sample, tiles, 3, DISTANCE_SUMS))
    tl.store(out + 2, tl.sqrt(square) * unit)
    tl.store(out + 3, max_magnitude(load_parts(top_ptr, sample, tiles, 0, 1)))
