"""A step along the momentum of the gradients: momentum_step.h.

`momentum_magnitudes` comes first; then linf is one launch. l2 is two: `momentum_sums`, which writes
the momentum, and `pgd_step_l2` with the momentum in place of the gradient.
"""

import triton
import triton.language as tl

from .common import (
    BLOCK,
    clip,
    clip_to_ball_linf,
    exponent_of,
    load,
    load_mask,
    offsets,
    per_sample,
    place,
    power_of_two,
    power_of_two_scale,
    put_sums,
    round_to,
    store_within,
    take_sum,
    walk,
)


@triton.jit
def momentum_magnitudes(
    grad_ptr,  # [B, ...]
    mask_ptr,  # [B, ...] uint8, or None
    grad_largest_ptr,  # [B, tiles] float64 from `largest`; None unless the data is float64
    magnitudes_ptr,  # [B, 1, tiles] float64, written: sums of |grad|
    count: tl.int64,
    sizes,
    strides,
    tiles,
    INDEX: tl.constexpr,
):
    sample, tile = place(tiles)
    scale = power_of_two_scale(grad_largest_ptr, sample, tiles)
    total = tl.zeros((BLOCK,), tl.float64)
    for block in range(tile, tl.cdiv(count, BLOCK), tiles):
        index, live = walk(block, count)
        inside = load_mask(mask_ptr, index, live, sample, sizes, strides, INDEX)
        grad = load(grad_ptr, offsets(index, sample, sizes, strides[0], INDEX), inside)
        total += tl.abs(grad.to(tl.float64) * scale)
    put_sums(magnitudes_ptr, (total,), sample, tile, tiles, 1)


@triton.jit
def momentum_linf(
    adv_ptr,  # [B, ...] read and written
    momentum_ptr,  # [B, ...] read and written
    grad_ptr,  # [B, ...]
    origin_ptr,  # [B, ...]
    mask_ptr,  # [B, ...] uint8, or None
    grad_largest_ptr,  # [B, tiles] float64 from `largest`; None unless the data is float64
    magnitudes_ptr,  # [B, 1, tiles] float64 from momentum_magnitudes
    decay: tl.float64,
    decay_ptr,  # [B] float64, or None
    eps: tl.float64,
    eps_ptr,  # [B] float64, or None
    step: tl.float64,
    step_ptr,  # [B] float64, or None
    low: tl.float64,
    high: tl.float64,
    count: tl.int64,
    sizes,
    strides,
    tiles,
    INDEX: tl.constexpr,
):
    sample, tile = place(tiles)
    first, second = unit_of(grad_largest_ptr, magnitudes_ptr, sample, tiles, count)
    kept = per_sample(decay, decay_ptr, sample)
    radius = per_sample(eps, eps_ptr, sample)
    length = per_sample(step, step_ptr, sample)
    for block in range(tile, tl.cdiv(count, BLOCK), tiles):
        index, live = walk(block, count)
        inside = load_mask(mask_ptr, index, live, sample, sizes, strides, INDEX)
        at = offsets(index, sample, sizes, strides[1], INDEX)
        old = load(momentum_ptr, at, live)
        grad = load(grad_ptr, offsets(index, sample, sizes, strides[2], INDEX), inside)
        momentum = kept.to(old.dtype) * old + grad * first * second
        tl.store(momentum_ptr + at, stored(momentum, momentum_ptr.dtype.element_ty), mask=live)
        at = offsets(index, sample, sizes, strides[0], INDEX)
        adv = load(adv_ptr, at, live)
        origin = load(origin_ptr, offsets(index, sample, sizes, strides[3], INDEX), live)
        size = length.to(adv.dtype)
        move = tl.where(momentum < 0, -size, tl.where(momentum > 0, size, momentum))  # 0 and NaN stay what they are
        x = clip_to_ball_linf(adv + move, origin, radius.to(adv.dtype), adv_ptr.dtype.element_ty)
        store_within(adv_ptr, at, x, origin, inside, live, low, high)


@triton.jit
def momentum_sums(
    adv_ptr,  # [B, ...]
    momentum_ptr,  # [B, ...] read and written
    grad_ptr,  # [B, ...]
    origin_ptr,  # [B, ...]
    mask_ptr,  # [B, ...] uint8, or None
    grad_largest_ptr,  # [B, tiles] float64 from `largest`; None unless the data is float64
    magnitudes_ptr,  # [B, 1, tiles] float64 from momentum_magnitudes
    momentum_largest_ptr,  # [B, tiles] float64: no entry of the new momentum is larger; None unless float64
    delta_largest_ptr,  # [B, tiles] float64 from `largest`, likewise
    sums_ptr,  # [B, 3, tiles] float64, written: sums of momentum^2, momentum delta, delta^2
    decay: tl.float64,
    decay_ptr,  # [B] float64, or None
    count: tl.int64,
    sizes,
    strides,
    tiles,
    INDEX: tl.constexpr,
):
    sample, tile = place(tiles)
    first, second = unit_of(grad_largest_ptr, magnitudes_ptr, sample, tiles, count)
    kept = per_sample(decay, decay_ptr, sample)
    momentum_scale = power_of_two_scale(momentum_largest_ptr, sample, tiles)
    delta_scale = power_of_two_scale(delta_largest_ptr, sample, tiles)
    mm = tl.zeros((BLOCK,), tl.float64)
    dm = tl.zeros((BLOCK,), tl.float64)
    dd = tl.zeros((BLOCK,), tl.float64)
    for block in range(tile, tl.cdiv(count, BLOCK), tiles):
        index, live = walk(block, count)
        inside = load_mask(mask_ptr, index, live, sample, sizes, strides, INDEX)
        momentum_at = offsets(index, sample, sizes, strides[1], INDEX)
        adv = load(adv_ptr, offsets(index, sample, sizes, strides[0], INDEX), inside)
        old = load(momentum_ptr, momentum_at, live)
        grad = load(grad_ptr, offsets(index, sample, sizes, strides[2], INDEX), inside)
        origin = load(origin_ptr, offsets(index, sample, sizes, strides[3], INDEX), inside)
        momentum = stored(kept.to(adv.dtype) * old + grad * first * second, momentum_ptr.dtype.element_ty)
        tl.store(momentum_ptr + momentum_at, momentum, mask=live)
        m = tl.where(inside, momentum.to(tl.float64) * momentum_scale, 0.0)
        d = (adv - origin).to(tl.float64) * delta_scale
        mm += m * m
        dm += d * m
        dd += d * d
    put_sums(sums_ptr, (mm, dm, dd), sample, tile, tiles, 3)


@triton.jit
def unit_of(grad_largest_ptr, magnitudes_ptr, sample, tiles, count):
    """(first, second): grad * first * second has a mean magnitude of 1."""
    first = power_of_two_scale(grad_largest_ptr, sample, tiles)
    mean = take_sum(magnitudes_ptr, sample, tiles, 0, 1) / count.to(tl.float64)
    second = tl.where(mean == 0, 0.0, 1.0 / mean)
    if grad_largest_ptr is None:
        k = tl.minimum(tl.maximum(-1 - exponent_of(mean), -126), 126)
        first = power_of_two(k).to(tl.float32)
        second = tl.where(mean == 0, 0.0, power_of_two(-k) / mean).to(tl.float32)
    return first, second


@triton.jit
def stored(momentum, STORAGE: tl.constexpr):
    """On the grid of the storage type; in float16 what is beyond its range stays at the largest number."""
    if STORAGE.is_fp16():
        momentum = clip(momentum, -65504.0, 65504.0)
    return round_to(momentum, STORAGE)
