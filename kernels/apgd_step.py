"""One step of APGD with momentum: apgd_step.h. linf is one launch; l2 sums (`apgd_step_sums`), measures the new point
where the sums do not say its norm (`apgd_step_measure`), then moves."""

import triton
import triton.language as tl

from .common import (
    BLOCK,
    add_inward,
    clip,
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
def load_images(adv_ptr, previous_ptr, grad_ptr, origin_ptr, index, live, sample, sizes, strides, INDEX: tl.constexpr):
    adv = load(adv_ptr, offsets(index, sample, sizes, strides[0], INDEX), live)
    previous = load(previous_ptr, offsets(index, sample, sizes, strides[1], INDEX), live)
    grad = load(grad_ptr, offsets(index, sample, sizes, strides[2], INDEX), live)
    origin = load(origin_ptr, offsets(index, sample, sizes, strides[3], INDEX), live)
    return adv, previous, grad, origin


@triton.jit
def write(adv_ptr, previous_ptr, new, old, origin, inside, index, live, sample, sizes, strides, low, high,
          INDEX: tl.constexpr):  # fmt: skip
    at = offsets(index, sample, sizes, strides[0], INDEX)
    store_within(adv_ptr, at, new, origin, inside, live, low, high)
    at = offsets(index, sample, sizes, strides[1], INDEX)
    tl.store(previous_ptr + at, tl.where(inside, old, origin), mask=live)


@triton.jit
def apgd_step_linf(
    adv_ptr,  # [B, ...] read and written
    previous_ptr,  # [B, ...] read and written
    grad_ptr,  # [B, ...]
    origin_ptr,  # [B, ...]
    mask_ptr,  # [B, ...] uint8, or None
    eps: tl.float64,
    eps_ptr,  # [B] float64, or None
    step: tl.float64,
    step_ptr,  # [B] float64, or None
    momentum: tl.float64,
    momentum_ptr,  # [B] float64, or None
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
    adv, previous, grad, origin = load_images(
        adv_ptr, previous_ptr, grad_ptr, origin_ptr, index, live, sample, sizes, strides, INDEX
    )
    inside = load_mask(mask_ptr, index, live, sample, sizes, strides, INDEX)
    radius = per_sample(eps, eps_ptr, sample).to(adv.dtype)
    length = per_sample(step, step_ptr, sample).to(adv.dtype)
    rest = 1.0 - per_sample(momentum, momentum_ptr, sample).to(adv.dtype)
    least = tl.full((), low, tl.float64).to(adv.dtype)
    most = tl.full((), high, tl.float64).to(adv.dtype)
    move = tl.where(grad < 0, -length, tl.where(grad > 0, length, grad))  # 0 and NaN stay what they are
    z = clip(clip_to_ball_linf(adv + move, origin, radius, adv_ptr.dtype.element_ty), least, most)
    x = z + rest * ((adv - previous) - (z - adv))
    x = clip_to_ball_linf(tl.where(rest == 0, z, x), origin, radius, adv_ptr.dtype.element_ty)
    write(
        adv_ptr, previous_ptr, x, adv, origin, inside, index, live, sample, sizes, strides, low, high, INDEX
    )  # fmt: skip


@triton.jit
def lag(adv, previous, rest):
    """adv - previous, where previous has a weight: it may hold anything in the first iteration."""
    return tl.where(rest == 0, 0.0, (adv - previous).to(tl.float64))


@triton.jit
def apgd_step_sums(
    adv_ptr,  # [B, ...]
    previous_ptr,  # [B, ...]
    grad_ptr,  # [B, ...]
    origin_ptr,  # [B, ...]
    mask_ptr,  # [B, ...] uint8, or None
    grad_largest_ptr,  # [B, tiles] float64 from `largest`; None unless the data is float64
    delta_largest_ptr,  # [B, tiles] likewise
    sums_ptr,  # [B, 6, tiles] float64, written: dd, dp, dg, pp, pg, gg
    momentum: tl.float64,
    momentum_ptr,  # [B] float64, or None
    count: tl.int64,
    sizes,
    strides,
    tiles,
    INDEX: tl.constexpr,
):
    sample, tile = place(tiles)
    grad_scale = power_of_two_scale(grad_largest_ptr, sample, tiles)
    delta_scale = power_of_two_scale(delta_largest_ptr, sample, tiles)
    rest = 1.0 - per_sample(momentum, momentum_ptr, sample)
    dd = tl.zeros((BLOCK,), tl.float64)
    dp, dg, pp, pg, gg = dd, dd, dd, dd, dd
    for block in range(tile, tl.cdiv(count, BLOCK), tiles):
        index, live = walk(block, count)
        inside = load_mask(mask_ptr, index, live, sample, sizes, strides, INDEX)
        adv, previous, grad, origin = load_images(
            adv_ptr, previous_ptr, grad_ptr, origin_ptr, index, inside, sample, sizes, strides, INDEX
        )
        d = (adv - origin).to(tl.float64) * delta_scale
        p = lag(adv, previous, rest) * delta_scale
        g = grad.to(tl.float64) * grad_scale
        dd += d * d
        dp += d * p
        dg += d * g
        pp += p * p
        pg += p * g
        gg += g * g
    put_sums(sums_ptr, (dd, dp, dg, pp, pg, gg), sample, tile, tiles, 6)


@triton.jit
def coefficients(sums_ptr, grad_scale, delta_scale, eps, step, momentum, low, high, sample, tiles):
    """(step, shrink, rest, norm, measure): momentum_l2 in apgd_step.h."""
    dd, dp = take_sum(sums_ptr, sample, tiles, 0, 6), take_sum(sums_ptr, sample, tiles, 1, 6)
    dg, pp = take_sum(sums_ptr, sample, tiles, 2, 6), take_sum(sums_ptr, sample, tiles, 3, 6)
    pg, gg = take_sum(sums_ptr, sample, tiles, 4, 6), take_sum(sums_ptr, sample, tiles, 5, 6)
    length = tl.sqrt(gg)
    c = tl.where(length == 0, 0.0, step / length)
    unit = c * delta_scale
    rest = 1.0 - momentum
    after = dd + 2.0 * unit * dg + unit * unit * gg
    shrink = shrink_to(tl.sqrt(tl.where(after < 0, 0.0, after)) / delta_scale, eps)
    kd, kg = shrink + rest * (1.0 - shrink), (1.0 - rest) * shrink * unit
    squares = kd * kd * dd + rest * rest * pp + kg * kg * gg
    dp, dg, pg = 2.0 * kd * rest * dp, 2.0 * kd * kg * dg, 2.0 * rest * kg * pg
    square = squares + dp + dg + pg
    terms = squares + tl.abs(dp) + tl.abs(dg) + tl.abs(pg)
    radius = eps * delta_scale
    larger = tl.where(square > radius * radius, square, radius * radius)
    norm = tl.sqrt(tl.where(square < 0, 0.0, square)) / delta_scale
    measure = (low > float("-inf")) | (high < float("inf")) | (terms > 1e4 * larger)
    return c, shrink, rest, norm, measure


@triton.jit
def delta_of(adv, previous, grad, origin, grad_scale, c, shrink, rest, low, high):
    """The new point before its last projection, as float64 distances from origin."""
    d, o = (adv - origin).to(tl.float64), origin.to(tl.float64)
    z = clip(shrink * (d + c * (grad.to(tl.float64) * grad_scale)), low - o, high - o)
    return d, z + rest * ((d + lag(adv, previous, rest)) - z)


@triton.jit
def apgd_step_measure(
    adv_ptr,  # [B, ...]
    previous_ptr,  # [B, ...]
    grad_ptr,  # [B, ...]
    origin_ptr,  # [B, ...]
    mask_ptr,  # [B, ...] uint8, or None
    grad_largest_ptr,  # [B, tiles] float64 from `largest`; None unless the data is float64
    delta_largest_ptr,  # [B, tiles] likewise
    sums_ptr,  # [B, 6, tiles] float64 from apgd_step_sums
    squares_ptr,  # [B, 1, tiles] float64, written where the norm of the new point is measured
    eps: tl.float64,
    eps_ptr,  # [B] float64, or None
    step: tl.float64,
    step_ptr,  # [B] float64, or None
    momentum: tl.float64,
    momentum_ptr,  # [B] float64, or None
    low: tl.float64,
    high: tl.float64,
    count: tl.int64,
    sizes,
    strides,
    tiles,
    INDEX: tl.constexpr,
):
    sample, tile = place(tiles)
    grad_scale = power_of_two_scale(grad_largest_ptr, sample, tiles)
    delta_scale = power_of_two_scale(delta_largest_ptr, sample, tiles)
    radius, size = per_sample(eps, eps_ptr, sample), per_sample(step, step_ptr, sample)
    weight = per_sample(momentum, momentum_ptr, sample)
    c, shrink, rest, _known, measure = coefficients(
        sums_ptr, grad_scale, delta_scale, radius, size, weight, low, high, sample, tiles
    )
    if measure:
        total = tl.zeros((BLOCK,), tl.float64)
        for block in range(tile, tl.cdiv(count, BLOCK), tiles):
            index, live = walk(block, count)
            inside = load_mask(mask_ptr, index, live, sample, sizes, strides, INDEX)
            adv, previous, grad, origin = load_images(
                adv_ptr, previous_ptr, grad_ptr, origin_ptr, index, inside, sample, sizes, strides, INDEX
            )
            _d, w = delta_of(adv, previous, grad, origin, grad_scale, c, shrink, rest, low, high)
            w = tl.where(inside, w * delta_scale, 0.0)
            total += w * w
        put_sums(squares_ptr, (total,), sample, tile, tiles, 1)


@triton.jit
def apgd_step_l2(
    adv_ptr,  # [B, ...] read and written
    previous_ptr,  # [B, ...] read and written
    grad_ptr,  # [B, ...]
    origin_ptr,  # [B, ...]
    mask_ptr,  # [B, ...] uint8, or None
    grad_largest_ptr,  # [B, tiles] float64 from `largest`; None unless the data is float64
    delta_largest_ptr,  # [B, tiles] likewise
    sums_ptr,  # [B, 6, tiles] float64 from apgd_step_sums
    squares_ptr,  # [B, 1, tiles] float64 from apgd_step_measure
    eps: tl.float64,
    eps_ptr,  # [B] float64, or None
    step: tl.float64,
    step_ptr,  # [B] float64, or None
    momentum: tl.float64,
    momentum_ptr,  # [B] float64, or None
    low: tl.float64,
    high: tl.float64,
    count: tl.int64,
    sizes,
    strides,
    tiles,
    INDEX: tl.constexpr,
):
    sample, tile = place(tiles)
    grad_scale = power_of_two_scale(grad_largest_ptr, sample, tiles)
    delta_scale = power_of_two_scale(delta_largest_ptr, sample, tiles)
    radius, size = per_sample(eps, eps_ptr, sample), per_sample(step, step_ptr, sample)
    weight = per_sample(momentum, momentum_ptr, sample)
    c, shrink, rest, norm, measure = coefficients(
        sums_ptr, grad_scale, delta_scale, radius, size, weight, low, high, sample, tiles
    )
    if measure:
        norm = tl.sqrt(take_sum(squares_ptr, sample, tiles, 0, 1)) / delta_scale
    last = shrink_to(norm, radius)
    for block in range(tile, tl.cdiv(count, BLOCK), tiles):
        index, live = walk(block, count)
        inside = load_mask(mask_ptr, index, live, sample, sizes, strides, INDEX)
        adv, previous, grad, origin = load_images(
            adv_ptr, previous_ptr, grad_ptr, origin_ptr, index, live, sample, sizes, strides, INDEX
        )
        d, w = delta_of(adv, previous, grad, origin, grad_scale, c, shrink, rest, low, high)
        moved = add_inward(origin, (last * w).to(adv.dtype), adv_ptr.dtype.element_ty)
        x = tl.where(last == 1, tl.where(w == d, adv, moved), moved)
        write(
            adv_ptr, previous_ptr, x, adv, origin, inside, index, live, sample, sizes, strides, low, high, INDEX
        )  # fmt: skip
