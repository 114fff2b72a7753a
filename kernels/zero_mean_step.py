"""One step of ObsAtk: zero_mean_step.h. Sums first (`zero_mean_sums`), then the move (`zero_mean_move`)."""

import triton
import triton.language as tl

from .common import (
    BLOCK,
    add_inward,
    exponent_of,
    load,
    offsets,
    per_sample,
    place,
    power_of_two,
    power_of_two_scale,
    put_sums,
    shrink_to,
    take_sum,
    walk,
)

ZERO_MEAN_SUMS = tl.constexpr(6)  # g, g^2, d, d^2, d g, size


@triton.jit
def pixel(ptr, sample, strides):
    """The first entry of a sample."""
    x = tl.load(ptr + sample * strides[0])
    if x.dtype != tl.float64:
        x = x.to(tl.float32)
    return x


@triton.jit
def zero_mean_sums(
    adv_ptr,  # [B, ...]
    grad_ptr,  # [B, ...]
    origin_ptr,  # [B, ...]
    grad_largest_ptr,  # [B, tiles] float64 from `largest`; None unless the data is float64
    delta_largest_ptr,  # [B, tiles] likewise
    sums_ptr,  # [B, ZERO_MEAN_SUMS, tiles] float64, written
    pivots_ptr,  # [B, 2] float64, written: what was taken off gradient and perturbation
    count: tl.int64,
    sizes,
    strides,
    tiles,
    INDEX: tl.constexpr,
):
    sample, tile = place(tiles)
    grad_scale = power_of_two_scale(grad_largest_ptr, sample, tiles)
    delta_scale = power_of_two_scale(delta_largest_ptr, sample, tiles)
    first = pixel(adv_ptr, sample, strides[0]) - pixel(origin_ptr, sample, strides[2])
    pivot_g = pixel(grad_ptr, sample, strides[1]).to(tl.float64) * grad_scale
    pivot_d = first.to(tl.float64) * delta_scale
    if tile == 0:  # the next kernel overwrites adv
        tl.store(pivots_ptr + sample * 2, pivot_g)
        tl.store(pivots_ptr + sample * 2 + 1, pivot_d)
    g1 = tl.zeros((BLOCK,), tl.float64)
    gg = tl.zeros((BLOCK,), tl.float64)
    d1 = tl.zeros((BLOCK,), tl.float64)
    dd = tl.zeros((BLOCK,), tl.float64)
    dg = tl.zeros((BLOCK,), tl.float64)
    size = tl.zeros((BLOCK,), tl.float64)
    for block in range(tile, tl.cdiv(count, BLOCK), tiles):
        index, live = walk(block, count)
        adv = load(adv_ptr, offsets(index, sample, sizes, strides[0], INDEX), live)
        grad = load(grad_ptr, offsets(index, sample, sizes, strides[1], INDEX), live)
        origin = load(origin_ptr, offsets(index, sample, sizes, strides[2], INDEX), live)
        g = tl.where(live, grad.to(tl.float64) * grad_scale - pivot_g, 0.0)
        d = tl.where(live, (adv - origin).to(tl.float64) * delta_scale - pivot_d, 0.0)
        g1 += g
        gg += g * g
        d1 += d
        dd += d * d
        dg += d * g
        size += tl.abs(adv).to(tl.float64) * delta_scale + tl.abs(origin).to(tl.float64) * delta_scale
    put_sums(sums_ptr, (g1, gg, d1, dd, dg, size), sample, tile, tiles, ZERO_MEAN_SUMS)


@triton.jit
def split(pivot, rest, REAL: tl.constexpr):
    """pivot + rest in two numbers of type REAL."""
    high = (pivot + rest).to(REAL)
    return high, ((pivot - high.to(tl.float64)) + rest).to(REAL)


@triton.jit
def spacing_of(STORAGE: tl.constexpr):
    """How far from 0 a mean counts as 0, relative to the size of the numbers, and the size below which it stays so."""
    if STORAGE.is_fp16():
        relative, least = 2.0**-10, 2.0**-14
    elif STORAGE.is_bf16():
        relative, least = 2.0**-7, 2.0**-126
    elif STORAGE.is_fp32():
        relative, least = 2.0**-22, 2.0**-126
    else:
        relative, least = 2.0**-51, 2.0**-1022
    return tl.full((), relative, tl.float64), tl.full((), least, tl.float64)


@triton.jit
def zero_mean_move(
    adv_ptr,  # [B, ...] read and written
    grad_ptr,  # [B, ...]
    origin_ptr,  # [B, ...]
    grad_largest_ptr,  # [B, tiles] float64 from `largest`; None unless the data is float64
    delta_largest_ptr,  # [B, tiles] likewise
    sums_ptr,  # [B, ZERO_MEAN_SUMS, tiles] float64 from zero_mean_sums
    pivots_ptr,  # [B, 2] float64 from zero_mean_sums
    eps: tl.float64,
    eps_ptr,  # [B] float64, or None
    step: tl.float64,
    step_ptr,  # [B] float64, or None
    count: tl.int64,
    sizes,
    strides,
    tiles,
    INDEX: tl.constexpr,
):
    STORAGE: tl.constexpr = adv_ptr.dtype.element_ty
    REAL: tl.constexpr = tl.float64 if STORAGE.is_fp64() else tl.float32
    sample, tile = place(tiles)
    grad_scale = power_of_two_scale(grad_largest_ptr, sample, tiles)
    delta_scale = power_of_two_scale(delta_largest_ptr, sample, tiles)
    pivot_g, pivot_d = tl.load(pivots_ptr + sample * 2), tl.load(pivots_ptr + sample * 2 + 1)
    elements = tl.cast(count, tl.float64)
    g1 = take_sum(sums_ptr, sample, tiles, 0, ZERO_MEAN_SUMS)
    d1 = take_sum(sums_ptr, sample, tiles, 2, ZERO_MEAN_SUMS)
    mean_g, mean_d = g1 / elements, d1 / elements
    gg = take_sum(sums_ptr, sample, tiles, 1, ZERO_MEAN_SUMS) - g1 * mean_g
    dd = take_sum(sums_ptr, sample, tiles, 3, ZERO_MEAN_SUMS) - d1 * mean_d
    dg = take_sum(sums_ptr, sample, tiles, 4, ZERO_MEAN_SUMS) - d1 * mean_g
    first, second, shrink = step_of(
        tl.where(gg < 0, 0.0, gg),
        dg,
        tl.where(dd < 0, 0.0, dd),
        per_sample(eps, eps_ptr, sample),
        per_sample(step, step_ptr, sample),
        grad_scale,
        delta_scale,
        REAL,
    )
    g_unit, d_unit = 1.0 / grad_scale, 1.0 / delta_scale  # powers of two
    g_high, g_low = split(pivot_g * g_unit, mean_g * g_unit, REAL)
    d_high, d_low = split(pivot_d * d_unit, mean_d * d_unit, REAL)
    relative, least = spacing_of(STORAGE)
    size = take_sum(sums_ptr, sample, tiles, 5, ZERO_MEAN_SUMS)
    off = tl.abs(d1 + elements * pivot_d) - relative * (size + elements * least * delta_scale)
    still = (second == 0) & (shrink == 1) & (off <= 0)
    for block in range(tile, tl.cdiv(count, BLOCK), tiles):
        index, live = walk(block, count)
        at = offsets(index, sample, sizes, strides[0], INDEX)
        adv = load(adv_ptr, at, live)
        grad = load(grad_ptr, offsets(index, sample, sizes, strides[1], INDEX), live)
        origin = load(origin_ptr, offsets(index, sample, sizes, strides[2], INDEX), live)
        move = ((grad - g_high) - g_low) * first * second
        delta = ((adv - origin) - d_high) - d_low
        moved = add_inward(origin, shrink * (delta + move), STORAGE)
        tl.store(adv_ptr + at, tl.where(still, adv, moved), mask=live)


@triton.jit
def step_of(gg, dg, dd, eps, step, grad_scale, delta_scale, REAL: tl.constexpr):
    """(first, second, shrink) of delta' = shrink * (delta + grad * first * second): step_l2 in pgd_step.h."""
    norm = tl.sqrt(gg)
    c = tl.where(norm == 0, 0.0, step / norm)
    unit = c * delta_scale
    after = dd + 2.0 * unit * dg + unit * unit * gg
    after = tl.where(after < 0, 0.0, after)
    shrink = shrink_to(tl.sqrt(after) / delta_scale, eps)
    if REAL.is_fp32():
        # step / |grad| alone can leave the range of float32 where its product with grad does not.
        k = tl.where(norm > 0, tl.minimum(tl.maximum(-exponent_of(norm), -126), 126), 0)
        grad_scale = power_of_two(k)
        c = c * power_of_two(-k)
    return grad_scale.to(REAL), c.to(REAL), shrink.to(REAL)
