"""Projection onto the ball: project.h. linf is one launch; l2 sums first (`project_sums`), then scales."""

import triton
import triton.language as tl

from .common import (
    BLOCK,
    add_inward,
    clip_to_ball_linf,
    load,
    load_mask,
    offsets,
    per_sample,
    place,
    power_of_two_scale,
    put_sums,
    shrink_to,
    store_within,
    take_sum,
    walk,
)


@triton.jit
def project_linf(
    adv_ptr,  # [B, ...] read and written
    origin_ptr,  # [B, ...]
    mask_ptr,  # [B, ...] uint8, or None
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
    at = offsets(index, sample, sizes, strides[0], INDEX)
    adv = load(adv_ptr, at, live)
    origin = load(origin_ptr, offsets(index, sample, sizes, strides[1], INDEX), live)
    inside = load_mask(mask_ptr, index, live, sample, sizes, strides, INDEX)
    radius = per_sample(eps, eps_ptr, sample).to(adv.dtype)
    x = clip_to_ball_linf(adv, origin, radius, adv_ptr.dtype.element_ty)
    store_within(adv_ptr, at, x, origin, inside, live, low, high)


@triton.jit
def project_sums(
    adv_ptr,  # [B, ...]
    origin_ptr,  # [B, ...]
    mask_ptr,  # [B, ...] uint8, or None
    largest_ptr,  # [B, tiles] float64 from `largest`; None unless the data is float64
    sums_ptr,  # [B, 1, tiles] float64, written: sums of delta^2
    count: tl.int64,
    sizes,
    strides,
    tiles,
    INDEX: tl.constexpr,
):
    sample, tile = place(tiles)
    scale = power_of_two_scale(largest_ptr, sample, tiles)
    dd = tl.zeros((BLOCK,), tl.float64)
    for block in range(tile, tl.cdiv(count, BLOCK), tiles):
        index, live = walk(block, count)
        inside = load_mask(mask_ptr, index, live, sample, sizes, strides, INDEX)
        adv = load(adv_ptr, offsets(index, sample, sizes, strides[0], INDEX), inside)
        origin = load(origin_ptr, offsets(index, sample, sizes, strides[1], INDEX), inside)
        d = (adv - origin).to(tl.float64) * scale
        dd += d * d
    put_sums(sums_ptr, (dd,), sample, tile, tiles, 1)


@triton.jit
def project_l2(
    adv_ptr,  # [B, ...] read and written
    origin_ptr,  # [B, ...]
    mask_ptr,  # [B, ...] uint8, or None
    largest_ptr,  # [B, tiles] float64 from `largest`; None unless the data is float64
    sums_ptr,  # [B, 1, tiles] float64 from project_sums
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
    norm = tl.sqrt(take_sum(sums_ptr, sample, tiles, 0, 1)) / power_of_two_scale(largest_ptr, sample, tiles)
    factor = shrink_to(norm, per_sample(eps, eps_ptr, sample))
    for block in range(tile, tl.cdiv(count, BLOCK), tiles):
        index, live = walk(block, count)
        inside = load_mask(mask_ptr, index, live, sample, sizes, strides, INDEX)
        at = offsets(index, sample, sizes, strides[0], INDEX)
        adv = load(adv_ptr, at, live)
        origin = load(origin_ptr, offsets(index, sample, sizes, strides[1], INDEX), live)
        shrink = factor.to(adv.dtype)
        moved = add_inward(origin, shrink * (adv - origin), adv_ptr.dtype.element_ty)
        store_within(adv_ptr, at, tl.where(shrink == 1, adv, moved), origin, inside, live, low, high)
