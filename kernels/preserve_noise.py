"""Projection onto the noises of one mean, norm and distance: preserve_noise.h.

linf: `preserve_moments`, then one launch of `preserve_round` a round, then `preserve_linf`. Every program of a sample
adds up the sums of the round before and advances Newton's state for itself, so that nothing waits for the host; what it
reads and what it writes are different buffers. A finished sample costs no reading of images.
l2: closed form after `preserve_moments`.
"""

import triton
import triton.language as tl

from .common import (
    BLOCK,
    SHRINK_MARGIN,
    add_inward,
    clip,
    clip_to_ball_linf,
    load,
    offsets,
    per_sample,
    place,
    put_sums,
    take_sum,
    walk,
)

ROUNDS = tl.constexpr(16)
MOMENTS = tl.constexpr(5)  # sums of n, n^2, t, t^2, t n with n = origin - clean, t = adv - clean
SUMS = tl.constexpr(6)  # sums of z, z^2, z t, and of 1, t, t^2 where no face of the box holds z
STATE = tl.constexpr(17)  # the twelve numbers of PreserveState and the five moments
GOAL = tl.constexpr(1e-6)  # as in preserve_noise.h, and so are the other numbers below
ACCEPT = tl.constexpr(4e-5)
HUGE = tl.constexpr(1e300)


@triton.jit
def preserve_moments(
    adv_ptr,  # [B, ...]
    origin_ptr,  # [B, ...]
    clean_ptr,  # [B, ...]
    moments_ptr,  # [B, MOMENTS, tiles] float64, written
    count: tl.int64,
    sizes,
    strides,
    tiles,
    INDEX: tl.constexpr,
):
    sample, tile = place(tiles)
    sum_n = tl.zeros((BLOCK,), tl.float64)
    sum_nn = tl.zeros((BLOCK,), tl.float64)
    sum_t = tl.zeros((BLOCK,), tl.float64)
    sum_tt = tl.zeros((BLOCK,), tl.float64)
    sum_tn = tl.zeros((BLOCK,), tl.float64)
    for block in range(tile, tl.cdiv(count, BLOCK), tiles):
        index, live = walk(block, count)
        adv = load(adv_ptr, offsets(index, sample, sizes, strides[0], INDEX), live)
        origin = load(origin_ptr, offsets(index, sample, sizes, strides[1], INDEX), live)
        clean = load(clean_ptr, offsets(index, sample, sizes, strides[2], INDEX), live)
        t = (adv - clean).to(tl.float64)
        n = (origin - clean).to(tl.float64)
        sum_n += n
        sum_nn += n * n
        sum_t += t
        sum_tt += t * t
        sum_tn += t * n
    put_sums(moments_ptr, (sum_n, sum_nn, sum_t, sum_tt, sum_tn), sample, tile, tiles, MOMENTS)


@triton.jit
def variance_sum(total, square, count):
    variance = square - total * total / count
    return tl.where(variance < 0, 0.0, variance)


@triton.jit
def begin(moments_ptr, sample, tiles, count):
    """The state before the first round, and behind it the moments."""
    n = take_sum(moments_ptr, sample, tiles, 0, MOMENTS)
    nn = take_sum(moments_ptr, sample, tiles, 1, MOMENTS)
    t = take_sum(moments_ptr, sample, tiles, 2, MOMENTS)
    tt = take_sum(moments_ptr, sample, tiles, 3, MOMENTS)
    tn = take_sum(moments_ptr, sample, tiles, 4, MOMENTS)
    var_n = variance_sum(n, nn, count)
    var_t = variance_sum(t, tt, count)
    constant = var_n <= 1e-12 * nn  # zero up to the rounding of the sums: nothing else is allowed
    a = tl.where((var_t > 1e-20 * var_n) & ~constant, tl.sqrt(var_n / var_t), 1.0)
    b = (a * t - n) / count
    zero = tl.full((), 0.0, tl.float64)
    one = tl.full((), 1.0, tl.float64)
    huge = tl.full((), HUGE, tl.float64)
    done = tl.where(constant, one, zero)
    return 1.0 / a - 1.0, b / a, zero, zero, zero, zero, one, -huge, zero, zero, huge, done, n, nn, t, tt, tn


@triton.jit
def newton(lam, mu, slope_lam, slope_mu, free, free_t, free_tt, nn, count):
    """Newton's step of the dual at (lam, mu), and how much of it keeps a > 0."""
    a = 1.0 / (1.0 + lam)
    b = mu * a
    free_z = a * free_t - b * free
    free_zz = a * a * free_tt - 2.0 * a * b * free_t + b * b * free
    # Minus the Hessian, lifted a little so that it can be inverted where no entry is free.
    h11 = a * free_zz + 1e-7 * nn
    h12 = a * free_z
    h22 = a * free + 1e-7 * count
    det = h11 * h22 - h12 * h12
    step_lam = (h22 * slope_lam - h12 * slope_mu) / det
    step_mu = (h11 * slope_mu - h12 * slope_lam) / det
    longest = 0.5 * (1.0 + lam)
    size = tl.abs(step_lam)
    return step_lam, step_mu, tl.where(size > longest, longest / size, 1.0)


@triton.jit
def advance(state_ptr, sums_ptr, sample, tiles, count):
    """The state of the round before, moved on by the sums taken there: preserve_advance without branches."""
    at = state_ptr + sample * STATE
    lam, mu, from_lam, from_mu = tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3)
    step_lam, step_mu, length, dual = tl.load(at + 4), tl.load(at + 5), tl.load(at + 6), tl.load(at + 7)
    best_lam, best_mu, best, done = tl.load(at + 8), tl.load(at + 9), tl.load(at + 10), tl.load(at + 11)
    n, nn, t, tt, tn = tl.load(at + 12), tl.load(at + 13), tl.load(at + 14), tl.load(at + 15), tl.load(at + 16)
    zz = take_sum(sums_ptr, sample, tiles, 1, SUMS)
    slope_lam = 0.5 * (zz - nn)
    slope_mu = take_sum(sums_ptr, sample, tiles, 0, SUMS) - n

    mean_error = tl.abs(slope_mu) / tl.sqrt(count * nn)
    norm_error = tl.abs(slope_lam) / nn
    error = tl.where(mean_error > norm_error, mean_error, norm_error)
    better = (done == 0) & ((error < best) | (error != error))  # a NaN must reach the result
    best = tl.where(better, error, best)
    best_lam = tl.where(better, lam, best_lam)
    best_mu = tl.where(better, mu, best_mu)
    done = tl.where(error > GOAL, done, 1.0)

    here = 0.5 * zz - take_sum(sums_ptr, sample, tiles, 2, SUMS) + lam * slope_lam + mu * slope_mu
    rise = here >= dual - 1e-13 * tt
    free = take_sum(sums_ptr, sample, tiles, 3, SUMS)
    free_t = take_sum(sums_ptr, sample, tiles, 4, SUMS)
    free_tt = take_sum(sums_ptr, sample, tiles, 5, SUMS)
    new_lam, new_mu, full = newton(lam, mu, slope_lam, slope_mu, free, free_t, free_tt, nn, count)
    from_lam, from_mu, dual = tl.where(rise, lam, from_lam), tl.where(rise, mu, from_mu), tl.where(rise, here, dual)
    step_lam, step_mu = tl.where(rise, new_lam, step_lam), tl.where(rise, new_mu, step_mu)
    length = tl.where(rise, full, length * 0.3)
    lam = from_lam + length * step_lam
    mu = from_mu + length * step_mu
    return lam, mu, from_lam, from_mu, step_lam, step_mu, length, dual, best_lam, best_mu, best, done, n, nn, t, tt, tn


@triton.jit
def preserve_round(
    adv_ptr,  # [B, ...]
    origin_ptr,  # [B, ...]
    clean_ptr,  # [B, ...]
    moments_ptr,  # [B, MOMENTS, tiles] float64 in the first round, then None
    before_state_ptr,  # [B, STATE] float64 of the round before; None in the first
    before_sums_ptr,  # [B, SUMS, tiles] likewise
    state_ptr,  # [B, STATE] float64, written
    sums_ptr,  # [B, SUMS, tiles] float64, written
    eps: tl.float64,
    eps_ptr,  # [B] float64, or None
    count: tl.int64,
    sizes,
    strides,
    tiles,
    INDEX: tl.constexpr,
):
    sample, tile = place(tiles)
    elements = tl.cast(count, tl.float64)
    if moments_ptr is not None:
        state = begin(moments_ptr, sample, tiles, elements)
    else:
        state = advance(before_state_ptr, before_sums_ptr, sample, tiles, elements)
    for k in tl.static_range(STATE):
        tl.store(state_ptr + sample * STATE + k, state[k], mask=tile == 0)

    lam = state[0]
    a = 1.0 / (1.0 + lam)
    b = state[1] * a
    radius = per_sample(eps, eps_ptr, sample)
    sum_z = tl.zeros((BLOCK,), tl.float64)
    sum_zz = tl.zeros((BLOCK,), tl.float64)
    sum_zt = tl.zeros((BLOCK,), tl.float64)
    free = tl.zeros((BLOCK,), tl.float64)
    free_t = tl.zeros((BLOCK,), tl.float64)
    free_tt = tl.zeros((BLOCK,), tl.float64)
    blocks = tl.where(state[11] == 0, tl.cdiv(count, BLOCK), 0)
    for block in range(tile, blocks, tiles):
        index, live = walk(block, count)
        adv = load(adv_ptr, offsets(index, sample, sizes, strides[0], INDEX), live)
        origin = load(origin_ptr, offsets(index, sample, sizes, strides[1], INDEX), live)
        clean = load(clean_ptr, offsets(index, sample, sizes, strides[2], INDEX), live)
        t = adv - clean
        n = origin - clean
        low = n - radius.to(n.dtype)
        high = n + radius.to(n.dtype)
        raw = t + ((-lam * a).to(t.dtype) * t - b.to(t.dtype))
        z = tl.where(live, clip(raw, low, high), 0.0).to(tl.float64)
        inside = live & (raw > low) & (raw < high)
        td = t.to(tl.float64)
        held_t = tl.where(inside, td, 0.0)
        sum_z += z
        sum_zz += z * z
        sum_zt += z * td
        free += tl.where(inside, 1.0, 0.0)
        free_t += held_t
        free_tt += held_t * td
    put_sums(sums_ptr, (sum_z, sum_zz, sum_zt, free, free_t, free_tt), sample, tile, tiles, SUMS)


@triton.jit
def preserve_linf(
    adv_ptr,  # [B, ...] read and written
    origin_ptr,  # [B, ...]
    clean_ptr,  # [B, ...]
    state_ptr,  # [B, STATE] float64 of the last round
    sums_ptr,  # [B, SUMS, tiles] float64 of the last round
    eps: tl.float64,
    eps_ptr,  # [B] float64, or None
    count: tl.int64,
    sizes,
    strides,
    tiles,
    INDEX: tl.constexpr,
):
    sample, tile = place(tiles)
    state = advance(state_ptr, sums_ptr, sample, tiles, tl.cast(count, tl.float64))
    lam, mu, still = state[8], state[9], state[10] > ACCEPT
    a = 1.0 / (1.0 + lam)
    radius = per_sample(eps, eps_ptr, sample)
    for block in range(tile, tl.cdiv(count, BLOCK), tiles):
        index, live = walk(block, count)
        at = offsets(index, sample, sizes, strides[0], INDEX)
        adv = load(adv_ptr, at, live)
        origin = load(origin_ptr, offsets(index, sample, sizes, strides[1], INDEX), live)
        clean = load(clean_ptr, offsets(index, sample, sizes, strides[2], INDEX), live)
        t = adv - clean
        moved = adv + ((-lam * a).to(t.dtype) * t - (mu * a).to(t.dtype))
        x = clip_to_ball_linf(moved, origin, radius.to(t.dtype), adv_ptr.dtype.element_ty)
        tl.store(adv_ptr + at, tl.where(still, origin, x), mask=live)


@triton.jit
def cap(moments_ptr, eps, sample, tiles, count):
    """(A, B - 1, C, still) of z = A t + B n + C on the spherical cap: preserve_finish_l2."""
    n = take_sum(moments_ptr, sample, tiles, 0, MOMENTS)
    nn = take_sum(moments_ptr, sample, tiles, 1, MOMENTS)
    t = take_sum(moments_ptr, sample, tiles, 2, MOMENTS)
    tt = take_sum(moments_ptr, sample, tiles, 3, MOMENTS)
    rr = variance_sum(n, nn, count)
    vv = variance_sum(t, tt, count)
    uv = take_sum(moments_ptr, sample, tiles, 4, MOMENTS) - n * t / count
    keep = eps * SHRINK_MARGIN
    chord = keep * keep / (2.0 * rr)  # 1 - cos of the widest angle allowed
    beyond = 1.0 - uv / tl.sqrt(rr * vv) > chord
    across = vv - uv * uv / rr  # of t, orthogonal to n
    still = (rr <= 1e-12 * nn) | (vv <= 1e-12 * tt) | (beyond & (across <= 1e-12 * vv))
    a = tl.where(beyond, tl.sqrt(chord * (2.0 - chord) * rr / across), tl.sqrt(rr / vv))
    b_minus_1 = tl.where(beyond, -chord - a * uv / rr, -1.0)
    c = -b_minus_1 * (n / count) - a * (t / count)
    return a, b_minus_1, c, still


@triton.jit
def preserve_l2(
    adv_ptr,  # [B, ...] read and written
    origin_ptr,  # [B, ...]
    clean_ptr,  # [B, ...]
    moments_ptr,  # [B, MOMENTS, tiles] float64
    eps: tl.float64,
    eps_ptr,  # [B] float64, or None
    count: tl.int64,
    sizes,
    strides,
    tiles,
    INDEX: tl.constexpr,
):
    sample, tile = place(tiles)
    radius = per_sample(eps, eps_ptr, sample)
    first, second, shift, still = cap(moments_ptr, radius, sample, tiles, tl.cast(count, tl.float64))
    for block in range(tile, tl.cdiv(count, BLOCK), tiles):
        index, live = walk(block, count)
        at = offsets(index, sample, sizes, strides[0], INDEX)
        adv = load(adv_ptr, at, live)
        origin = load(origin_ptr, offsets(index, sample, sizes, strides[1], INDEX), live)
        clean = load(clean_ptr, offsets(index, sample, sizes, strides[2], INDEX), live)
        t = adv - clean
        n = origin - clean
        delta = first.to(t.dtype) * t + (second.to(t.dtype) * n + shift.to(t.dtype))
        x = add_inward(origin, delta, adv_ptr.dtype.element_ty)
        tl.store(adv_ptr + at, tl.where(still, origin, x), mask=live)
