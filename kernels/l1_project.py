"""Projection onto the l1 ball and the bounds together: l1_project.h.

`l1_sums` at lambda = 0, one launch of `l1_round` a round, then `l1_apply`. Every program of a sample adds up the sums
of the round before and advances the state for itself, so that nothing waits for the host; what it reads and what it
writes are different buffers. A finished sample costs no reading of images.
"""

import triton
import triton.language as tl

from .common import (
    BLOCK,
    SHRINK_MARGIN,
    add_inward,
    clip,
    load,
    load_mask,
    load_parts,
    offsets,
    per_sample,
    place,
    put_sums,
    store_within,
    take_sum,
    walk,
)

L1_ROUNDS = tl.constexpr(32)  # as in l1_project.h, and so is the goal
L1_GOAL = tl.constexpr(2.0**-30)
L1_STATE = tl.constexpr(7)  # the numbers of L1State
L1_FIRST = tl.constexpr(4)  # columns at lambda = 0: sum, free, least, largest
L1_SUMS = tl.constexpr(2)  # afterwards: sum, free


@triton.jit
def rest_of(d, lam):
    """max(|d| - lambda, 0) in float64; a NaN stays."""
    rest = tl.abs(d.to(tl.float64)) - lam
    return tl.where(rest < 0, 0.0, rest)


@triton.jit
def l1_terms(d, origin, lam, low, high):
    """(|z - origin|, whether it still moves with lambda)"""
    rest = rest_of(d, lam)
    moved = tl.where(d < 0, -rest, rest)
    low = low - origin.to(tl.float64)
    high = high - origin.to(tl.float64)
    free = (rest > 0) & (moved > low) & (moved < high)
    return tl.abs(clip(moved, low, high)), tl.where(free, 1.0, 0.0)


@triton.jit
def l1_sums(
    adv_ptr,  # [B, ...]
    origin_ptr,  # [B, ...]
    mask_ptr,  # [B, ...] uint8, or None
    sums_ptr,  # [B, L1_FIRST, tiles] float64, written
    low: tl.float64,
    high: tl.float64,
    count: tl.int64,
    sizes,
    strides,
    tiles,
    INDEX: tl.constexpr,
):
    sample, tile = place(tiles)
    low = tl.full((), low, tl.float64)
    high = tl.full((), high, tl.float64)
    total = tl.zeros((BLOCK,), tl.float64)
    free = tl.zeros((BLOCK,), tl.float64)
    least = tl.zeros((BLOCK,), tl.float64)
    largest = tl.zeros((BLOCK,), tl.float64)
    for block in range(tile, tl.cdiv(count, BLOCK), tiles):
        index, live = walk(block, count)
        inside = load_mask(mask_ptr, index, live, sample, sizes, strides, INDEX)
        adv = load(adv_ptr, offsets(index, sample, sizes, strides[0], INDEX), inside)
        origin = load(origin_ptr, offsets(index, sample, sizes, strides[1], INDEX), inside)
        d = adv - origin
        size, moves = l1_terms(d, origin, 0.0, low, high)
        still = tl.abs(clip(tl.zeros((BLOCK,), tl.float64), low - origin.to(tl.float64), high - origin.to(tl.float64)))
        total += tl.where(inside, size, 0.0)
        free += tl.where(inside, moves, 0.0)
        least += tl.where(inside, still, 0.0)
        largest = tl.maximum(largest, tl.abs(d.to(tl.float64)))
    at = sums_ptr + sample * L1_FIRST * tiles + tile
    tl.store(at, tl.sum(total, 0))
    tl.store(at + tiles, tl.sum(free, 0))
    tl.store(at + 2 * tiles, tl.sum(least, 0))
    tl.store(at + 3 * tiles, tl.max(largest, 0))


@triton.jit
def l1_advance(lam, inside, outside, merit, width, target, done, total, free):
    """l1_advance of l1_project.h without branches."""
    error = total - target
    done = tl.where(tl.abs(error) > L1_GOAL * target, done, 1.0)
    live = done == 0
    outside = tl.where(live & (error > 0), lam, outside)
    inside = tl.where(live & (error <= 0), lam, inside)
    new_merit = tl.abs(error) * free
    new_width = inside - outside
    slow = (new_merit > 0.5 * merit) & (new_width > 0.5 * width)
    newton = lam + error / free
    far = lam + 2.0 * (total / free) * (1.0 - tl.sqrt(target / total))
    use_far = (total > 2.0 * target) & (far > outside) & (far < inside)
    after = tl.where(use_far, far, newton)
    after = tl.where((slow == 0) & (after > outside) & (after < inside), after, outside + 0.5 * new_width)
    between = (after > outside) & (after < inside)
    lam = tl.where(live, tl.where(between, after, inside), lam)
    done = tl.where(between, done, 1.0)
    return lam, inside, outside, new_merit, new_width, target, done


@triton.jit
def l1_begin(sums_ptr, eps, sample, tiles):
    """l1_begin of l1_project.h."""
    total = take_sum(sums_ptr, sample, tiles, 0, L1_FIRST)
    free = take_sum(sums_ptr, sample, tiles, 1, L1_FIRST)
    least = take_sum(sums_ptr, sample, tiles, 2, L1_FIRST)
    largest = tl.max(load_parts(sums_ptr, sample, tiles, 3, L1_FIRST), 0)
    target = eps * SHRINK_MARGIN
    zero = tl.full((), 0.0, tl.float64)
    one = tl.full((), 1.0, tl.float64)
    infinity = tl.full((), float("inf"), tl.float64)
    lost = (total != total) | (largest == infinity)
    stays = total <= eps
    empty = least >= target
    lam = tl.where(empty & (total > eps), infinity, zero)
    lam = tl.where(lost, infinity - infinity, lam)
    done = tl.where(lost | stays | empty, one, zero)
    return l1_advance(lam, largest, zero, infinity, largest, target, done, total, free)


@triton.jit
def l1_next(state_ptr, sums_ptr, sample, tiles):
    """The state of the round before, moved on by the sums taken there."""
    at = state_ptr + sample * L1_STATE
    lam, inside, outside = tl.load(at), tl.load(at + 1), tl.load(at + 2)
    merit, width, target, done = tl.load(at + 3), tl.load(at + 4), tl.load(at + 5), tl.load(at + 6)
    total = take_sum(sums_ptr, sample, tiles, 0, L1_SUMS)
    free = take_sum(sums_ptr, sample, tiles, 1, L1_SUMS)
    return l1_advance(lam, inside, outside, merit, width, target, done, total, free)


@triton.jit
def l1_round(
    adv_ptr,  # [B, ...]
    origin_ptr,  # [B, ...]
    mask_ptr,  # [B, ...] uint8, or None
    first_ptr,  # [B, L1_FIRST, tiles] float64 from l1_sums in the first round, then None
    before_state_ptr,  # [B, L1_STATE] float64 of the round before; None in the first
    before_sums_ptr,  # [B, L1_SUMS, tiles] likewise
    state_ptr,  # [B, L1_STATE] float64, written
    sums_ptr,  # [B, L1_SUMS, tiles] float64, written
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
    if first_ptr is not None:
        state = l1_begin(first_ptr, per_sample(eps, eps_ptr, sample), sample, tiles)
    else:
        state = l1_next(before_state_ptr, before_sums_ptr, sample, tiles)
    for k in tl.static_range(L1_STATE):
        tl.store(state_ptr + sample * L1_STATE + k, state[k], mask=tile == 0)

    low = tl.full((), low, tl.float64)
    high = tl.full((), high, tl.float64)
    total = tl.zeros((BLOCK,), tl.float64)
    free = tl.zeros((BLOCK,), tl.float64)
    blocks = tl.where(state[6] == 0, tl.cdiv(count, BLOCK), 0)
    for block in range(tile, blocks, tiles):
        index, live = walk(block, count)
        inside = load_mask(mask_ptr, index, live, sample, sizes, strides, INDEX)
        adv = load(adv_ptr, offsets(index, sample, sizes, strides[0], INDEX), inside)
        origin = load(origin_ptr, offsets(index, sample, sizes, strides[1], INDEX), inside)
        size, moves = l1_terms(adv - origin, origin, state[0], low, high)
        total += tl.where(inside, size, 0.0)
        free += tl.where(inside, moves, 0.0)
    put_sums(sums_ptr, (total, free), sample, tile, tiles, L1_SUMS)


@triton.jit
def narrowed_inward(x, REAL: tl.constexpr):
    """The number of type REAL nearest to x >= 0 and not above it."""
    near = x.to(REAL)
    if near.dtype == tl.float32:
        bits = near.to(tl.int32, bitcast=True)
        bits = tl.where(near.to(tl.float64) > x, bits - 1, bits)
        near = bits.to(tl.float32, bitcast=True)
    return near


@triton.jit
def l1_apply(
    adv_ptr,  # [B, ...] read and written
    origin_ptr,  # [B, ...]
    mask_ptr,  # [B, ...] uint8, or None
    state_ptr,  # [B, L1_STATE] float64 of the last round
    sums_ptr,  # [B, L1_SUMS, tiles] float64 of the last round
    low: tl.float64,
    high: tl.float64,
    count: tl.int64,
    sizes,
    strides,
    tiles,
    INDEX: tl.constexpr,
):
    sample, tile = place(tiles)
    state = l1_next(state_ptr, sums_ptr, sample, tiles)
    lam = tl.where(state[6] != 0, state[0], state[1])  # where the rounds ran out: the end that lies in the ball
    for block in range(tile, tl.cdiv(count, BLOCK), tiles):
        index, live = walk(block, count)
        inside = load_mask(mask_ptr, index, live, sample, sizes, strides, INDEX)
        at = offsets(index, sample, sizes, strides[0], INDEX)
        adv = load(adv_ptr, at, live)
        origin = load(origin_ptr, offsets(index, sample, sizes, strides[1], INDEX), live)
        d = adv - origin
        rest = narrowed_inward(rest_of(d, lam), adv.dtype)
        moved = add_inward(origin, tl.where(d < 0, -rest, rest), adv_ptr.dtype.element_ty)
        store_within(adv_ptr, at, tl.where(lam == 0, adv, moved), origin, inside, live, low, high)
