"""One projected-gradient step: pgd_step.h. linf is one launch; l2 sums first (`pgd_step_sums`), then moves."""

import triton
import triton.language as tl

from .common import (
    BLOCK,
    add_inward,
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
    shrink_to,
    store_within,
    take_sum,
    walk,
)


@triton.jit
def pgd_step_linf(
    adv_ptr,  # [B, ...] read and written
    grad_ptr,  # [B, ...]
    origin_ptr,  # [B, ...]
    mask_ptr,  # [B, ...] uint8, or None
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
    index, live = walk(tile, count)
    at = offsets(index, sample, sizes, strides[0], INDEX)
    adv = load(adv_ptr, at, live)
    grad = load(grad_ptr, offsets(index, sample, sizes, strides[1], INDEX), live)
    origin = load(origin_ptr, offsets(index, sample, sizes, strides[2], INDEX), live)
    inside = load_mask(mask_ptr, index, live, sample, sizes, strides, INDEX)
    radius = per_sample(eps, eps_ptr, sample).to(adv.dtype)
    length = per_sample(step, step_ptr, sample).to(adv.dtype)
    move = tl.where(grad < 0, -length, tl.where(grad > 0, length, grad))  # 0 and NaN stay what they are
    x = clip_to_ball_linf(adv + move, origin, radius, adv_ptr.dtype.element_ty)
    store_within(adv_ptr, at, x, origin, inside, live, low, high)


@triton.jit
def pgd_step_sums(
    adv_ptr,  # [B, ...]
    grad_ptr,  # [B, ...]
    origin_ptr,  # [B, ...]
    mask_ptr,  # [B, ...] uint8, or None
    grad_largest_ptr,  # [B, tiles] float64 from `largest`; None unless the data is float64
    delta_largest_ptr,  # [B, tiles] likewise
    sums_ptr,  # [B, 3, tiles] float64, written: sums of grad^2, grad delta, delta^2
    count: tl.int64,
    sizes,
    strides,
    tiles,
    INDEX: tl.constexpr,
):
    sample, tile = place(tiles)
    grad_scale = power_of_two_scale(grad_largest_ptr, sample, tiles)
    delta_scale = power_of_two_scale(delta_largest_ptr, sample, tiles)
    gg = tl.zeros((BLOCK,), tl.float64)
    dg = tl.zeros((BLOCK,), tl.float64)
    dd = tl.zeros((BLOCK,), tl.float64)
    for block in range(tile, tl.cdiv(count, BLOCK), tiles):
        index, live = walk(block, count)
        inside = load_mask(mask_ptr, index, live, sample, sizes, strides, INDEX)
        adv = load(adv_ptr, offsets(index, sample, sizes, strides[0], INDEX), inside)
        grad = load(grad_ptr, offsets(index, sample, sizes, strides[1], INDEX), inside)
        origin = load(origin_ptr, offsets(index, sample, sizes, strides[2], INDEX), inside)
        g = grad.to(tl.float64) * grad_scale
        d = (adv - origin).to(tl.float64) * delta_scale
        gg += g * g
        dg += d * g
        dd += d * d
    put_sums(sums_ptr, (gg, dg, dd), sample, tile, tiles, 3)


@triton.jit
def pgd_step_l2(
    adv_ptr,  # [B, ...] read and written
    grad_ptr,  # [B, ...]
    origin_ptr,  # [B, ...]
    mask_ptr,  # [B, ...] uint8, or None
    grad_largest_ptr,  # [B, tiles] float64 from `largest`; None unless the data is float64
    delta_largest_ptr,  # [B, tiles] likewise
    sums_ptr,  # [B, 3, tiles] float64 from pgd_step_sums
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
    first, second, shrink = coefficients(
        grad_largest_ptr,
        delta_largest_ptr,
        sums_ptr,
        per_sample(eps, eps_ptr, sample),
        per_sample(step, step_ptr, sample),
        sample,
        tiles,
    )
    for block in range(tile, tl.cdiv(count, BLOCK), tiles):
        index, live = walk(block, count)
        inside = load_mask(mask_ptr, index, live, sample, sizes, strides, INDEX)
        at = offsets(index, sample, sizes, strides[0], INDEX)
        adv = load(adv_ptr, at, live)
        grad = load(grad_ptr, offsets(index, sample, sizes, strides[1], INDEX), live)
        origin = load(origin_ptr, offsets(index, sample, sizes, strides[2], INDEX), live)
        move = grad * first * second
        moved = add_inward(origin, shrink * ((adv - origin) + move), adv_ptr.dtype.element_ty)
        x = tl.where(shrink == 1, tl.where(move == 0, adv, moved), moved)
        store_within(adv_ptr, at, x, origin, inside, live, low, high)


@triton.jit
def coefficients(grad_largest_ptr, delta_largest_ptr, sums_ptr, eps, step, sample, tiles):
    """(first, second, shrink) of delta' = shrink * (delta + grad * first * second): step_l2 in pgd_step.h."""
    grad_scale = power_of_two_scale(grad_largest_ptr, sample, tiles)
    delta_scale = power_of_two_scale(delta_largest_ptr, sample, tiles)
    gg = take_sum(sums_ptr, sample, tiles, 0, 3)
    dg = take_sum(sums_ptr, sample, tiles, 1, 3)
    dd = take_sum(sums_ptr, sample, tiles, 2, 3)
    norm = tl.sqrt(gg)
    c = tl.where(norm == 0, 0.0, step / norm)
    unit = c * delta_scale
    after = dd + 2.0 * unit * dg + unit * unit * gg
    after = tl.where(after < 0, 0.0, after)
    shrink = shrink_to(tl.sqrt(after) / delta_scale, eps)
    if grad_largest_ptr is None:
        # step / |grad| alone can leave the range of float32 where its product with grad does not.
        k = tl.where(norm > 0, tl.minimum(tl.maximum(-exponent_of(norm), -126), 126), 0)
        grad_scale = power_of_two(k).to(tl.float32)
        c = (c * power_of_two(-k)).to(tl.float32)
        shrink = shrink.to(tl.float32)
    return grad_scale, c, shrink
