"""The nearest point of the integer grid within ball and bounds: quantise.h. One launch."""

import triton
import triton.language as tl

from .common import clip, load, load_mask, offsets, per_sample, place, walk

MAGIC_32, MAGIC_64 = tl.constexpr(1.5 * 2.0**23), tl.constexpr(1.5 * 2.0**52)  # a number that is added becomes whole


@triton.jit
def grid_point(k, levels):
    """k / levels, correctly rounded."""
    return tl.div_rn(k, levels) if k.dtype == tl.float32 else k / levels


@triton.jit
def gap_of(v, x, origin, radius, low, high):
    """|v - x|, far beyond any distance within [0, 1] where v is not allowed."""
    gap = tl.where(tl.abs(v - origin) <= radius, tl.abs(v - x), 1e30)
    gap = tl.where(v < low, 1e30, gap)
    return tl.where(v > high, 1e30, gap)


@triton.jit
def quantise(
    adv_ptr,  # [B, ...] float32 or float64, read and written
    origin_ptr,  # [B, ...]
    mask_ptr,  # [B, ...] uint8, or None
    eps: tl.float64,
    eps_ptr,  # [B] float64, or None
    low: tl.float64,  # within [0, 1]
    high: tl.float64,
    levels,  # 2^bits - 1
    count: tl.int64,
    sizes,
    strides,
    tiles,
    INDEX: tl.constexpr,
    LINF: tl.constexpr,  # else no pixel moves away from origin
):
    sample, tile = place(tiles)
    index, live = walk(tile, count)
    at = offsets(index, sample, sizes, strides[0], INDEX)
    adv = load(adv_ptr, at, live)
    origin = load(origin_ptr, offsets(index, sample, sizes, strides[1], INDEX), live)
    inside = load_mask(mask_ptr, index, live, sample, sizes, strides, INDEX)
    real = adv.dtype
    low, high = tl.full((), low, tl.float64).to(real), tl.full((), high, tl.float64).to(real)
    radius = per_sample(eps, eps_ptr, sample).to(real) + tl.zeros_like(adv) if LINF else tl.abs(adv - origin)
    steps = tl.zeros_like(adv) + levels
    magic = tl.full((), MAGIC_64 if real == tl.float64 else MAGIC_32, real)
    x = clip(adv, 0.0, 1.0)
    target = clip(clip(x, origin - radius, origin + radius), low, high)
    k = (target * steps + magic) - magic
    v = grid_point(k, steps)
    side = tl.where(x > v, 1.0, -1.0)
    side = tl.where(v - origin < -radius, 1.0, side)
    side = tl.where(v - origin > radius, -1.0, side)
    side = tl.where(v < low, 1.0, side)
    side = tl.where(v > high, -1.0, side)
    w = grid_point(k + side.to(real), steps)
    gap, gap_w = gap_of(v, x, origin, radius, low, high), gap_of(w, x, origin, radius, low, high)
    nearest = tl.where(gap_w < gap, w, v)
    nearest = tl.where(gap_w == gap, tl.where(v < w, v, w), nearest)
    nearest = tl.where(tl.where(gap_w < gap, gap_w, gap) <= 1.0, nearest, float("nan"))
    tl.store(adv_ptr + at, tl.where(inside, nearest, origin), mask=live)
