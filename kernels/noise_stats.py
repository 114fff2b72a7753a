"""Mean, standard deviation, norms and typicality of each sample: noise_stats.h. One pass of sums, then the end."""

import triton
import triton.language as tl

from .common import (
    BLOCK,
    load,
    load_parts,
    max_magnitude,
    offsets,
    per_sample,
    place,
    power_of_two_scale,
    put_sums,
    take_sum,
    walk,
)


@triton.jit
def noise_sums(
    noise_ptr,  # [B, ...]
    noise_largest_ptr,  # [B, tiles] float64 from `largest`; None unless the data is float64
    sums_ptr,  # [B, 4, tiles] float64, written: sums of x = noise - mean, x^2, |noise|, noise^2
    top_ptr,  # [B, tiles] float64, written: max |noise|
    mean: tl.float64,
    mean_ptr,  # [B] float64, or None
    count: tl.int64,
    sizes,
    strides,
    tiles,
    INDEX: tl.constexpr,
):
    sample, tile = place(tiles)
    scale = power_of_two_scale(noise_largest_ptr, sample, tiles)
    centre = per_sample(mean, mean_ptr, sample) * scale
    total = tl.zeros((BLOCK,), tl.float64)
    square = tl.zeros((BLOCK,), tl.float64)
    absolute = tl.zeros((BLOCK,), tl.float64)
    raw_square = tl.zeros((BLOCK,), tl.float64)
    top = tl.zeros((BLOCK,), tl.int64)
    for block in range(tile, tl.cdiv(count, BLOCK), tiles):
        index, live = walk(block, count)
        noise = load(noise_ptr, offsets(index, sample, sizes, strides[0], INDEX), live).to(tl.float64) * scale
        x = tl.where(live, noise - centre, 0.0)
        size = tl.abs(noise)
        total += x
        square += x * x
        absolute += size
        raw_square += noise * noise
        top = tl.maximum(top, size.to(tl.int64, bitcast=True))
    put_sums(sums_ptr, (total, square, absolute, raw_square), sample, tile, tiles, 4)
    tl.store(top_ptr + sample * tiles + tile, max_magnitude(top.to(tl.float64, bitcast=True)))


@triton.jit
def noise_finish(
    noise_largest_ptr,  # [B, tiles] float64 from `largest`; None unless the data is float64
    sums_ptr,  # [B, 4, tiles] float64 from noise_sums
    top_ptr,  # [B, tiles] float64 from noise_sums
    stats_ptr,  # [B, 6] written: mean, std, l1, l2, linf, typicality
    sigma: tl.float64,
    sigma_ptr,  # [B] float64, or None
    mean: tl.float64,
    mean_ptr,  # [B] float64, or None
    count: tl.int64,
    tiles,
):
    sample = tl.program_id(0).to(tl.int64)
    scale = power_of_two_scale(noise_largest_ptr, sample, tiles)
    elements = tl.cast(count, tl.float64)
    shifted = take_sum(sums_ptr, sample, tiles, 0, 4) / elements
    square = take_sum(sums_ptr, sample, tiles, 1, 4) / elements
    variance = square - shifted * shifted
    variance = tl.where(variance < 0, 0.0, variance)
    ratio = tl.sqrt(square) / scale / per_sample(sigma, sigma_ptr, sample)
    out = stats_ptr + sample * 6
    tl.store(out, per_sample(mean, mean_ptr, sample) + shifted / scale)
    tl.store(out + 1, tl.sqrt(variance) / scale)
    tl.store(out + 2, take_sum(sums_ptr, sample, tiles, 2, 4) / scale)
    tl.store(out + 3, tl.sqrt(take_sum(sums_ptr, sample, tiles, 3, 4)) / scale)
    tl.store(out + 4, max_magnitude(load_parts(top_ptr, sample, tiles, 0, 1)) / scale)
    tl.store(out + 5, 0.5 * (ratio * ratio - 1.0))
