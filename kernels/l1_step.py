"""The sparse step of l1_step_: l1_step.h. `l1_count` once a digit, then `l1_move`; the kernels of l1_project follow.

The k-th largest |grad| is found by radix selection. Every program of a sample chooses the digit before from its
histogram for itself. The counts are whole numbers, so atomic additions give the same bits in any order.
"""

import triton
import triton.language as tl

from .common import BLOCK, load, load_mask, offsets, per_sample, place, round_to, walk

RADIX = tl.constexpr(256)
DIGIT_BITS = tl.constexpr(8)


@triton.jit
def key_of(x):
    """|x| as a whole number in the same order; NaN above infinity."""
    if x.dtype == tl.float64:
        key = x.to(tl.int64, bitcast=True) & 0x7FFFFFFFFFFFFFFF
    else:
        key = (x.to(tl.int32, bitcast=True) & 0x7FFFFFFF).to(tl.int64)
    return key


@triton.jit
def chosen(bins_ptr, before_ptr, sample, keep, FIRST: tl.constexpr):
    """(digits of the k-th largest so far, its rank among the keys that share them, keys above, keys that share them).

    bins_ptr [B, RADIX] is the histogram of the last of these digits, before_ptr [B, 4] the choice before it.
    """
    bins = tl.arange(0, RADIX)
    here = tl.load(bins_ptr + sample * RADIX + bins)
    total = tl.sum(here, 0)
    tail = total - tl.cumsum(here, 0) + here  # keys in this bin and those above
    if FIRST:
        prefix = tl.full((), 0, tl.int64)
        above = tl.full((), 0, tl.int64)
        exact = keep * total.to(tl.float64)
        rank = exact.to(tl.int64)
        rank += tl.where(rank.to(tl.float64) < exact, 1, 0)
        rank = tl.maximum(rank, 1)
    else:
        prefix, rank = tl.load(before_ptr + sample * 4), tl.load(before_ptr + sample * 4 + 1)
        above = tl.load(before_ptr + sample * 4 + 2)
    # The highest bin whose tail reaches the rank; none where everything is masked, and then nothing moves.
    at = tl.maximum(tl.sum(tl.where(tail >= rank, 1, 0).to(tl.int64), 0) - 1, 0)
    equal = tl.sum(tl.where(bins == at, here, 0), 0)
    over = tl.sum(tl.where(bins > at, here, 0), 0)
    return (prefix << DIGIT_BITS) | at, rank - over, above + over, equal


@triton.jit
def l1_count(
    grad_ptr,  # [B, ...]
    mask_ptr,  # [B, ...] uint8, or None
    before_bins_ptr,  # [B, RADIX] int64, the histogram of the digit before; None for the first
    before_ptr,  # [B, 4] int64, the choice before that digit; None for the first two
    choice_ptr,  # [B, 4] int64, written: the choice before this digit; None for the first
    bins_ptr,  # [B, RADIX] int64, zero: added to
    keep: tl.float64,
    keep_ptr,  # [B] float64, or None
    shift,  # of this digit
    count: tl.int64,
    sizes,
    strides,
    tiles,
    INDEX: tl.constexpr,
):
    sample, tile = place(tiles)
    prefix = tl.full((), 0, tl.int64)
    if before_bins_ptr is not None:
        choice = chosen(before_bins_ptr, before_ptr, sample, per_sample(keep, keep_ptr, sample), before_ptr is None)
        for k in tl.static_range(4):
            tl.store(choice_ptr + sample * 4 + k, choice[k], mask=tile == 0)
        prefix = choice[0]
    counts = tl.zeros((RADIX,), tl.int32)
    for block in range(tile, tl.cdiv(count, BLOCK), tiles):
        index, live = walk(block, count)
        inside = load_mask(mask_ptr, index, live, sample, sizes, strides, INDEX)
        key = key_of(load(grad_ptr, offsets(index, sample, sizes, strides[0], INDEX), inside))
        shares = inside & ((key >> shift >> DIGIT_BITS) == prefix)
        counts += tl.histogram(((key >> shift) & (RADIX - 1)).to(tl.int32), RADIX, mask=shares)
    bins = tl.arange(0, RADIX)
    tl.atomic_add(bins_ptr + sample * RADIX + bins, counts.to(tl.int64), mask=counts > 0, sem="relaxed")


@triton.jit
def l1_move(
    adv_ptr,  # [B, ...] read and written
    grad_ptr,  # [B, ...]
    bins_ptr,  # [B, RADIX] int64, the histogram of the last digit
    before_ptr,  # [B, 4] int64, the choice before it
    step: tl.float64,
    step_ptr,  # [B] float64, or None
    shift,  # of the last digit
    count: tl.int64,
    sizes,
    strides,
    tiles,
    INDEX: tl.constexpr,
):
    sample, tile = place(tiles)
    prefix, _rank, above, equal = chosen(bins_ptr, before_ptr, sample, 0.0, False)
    least = prefix << shift
    moving = tl.where(least == 0, above, above + equal)
    length = per_sample(step, step_ptr, sample) / moving.to(tl.float64)
    for block in range(tile, tl.cdiv(count, BLOCK), tiles):
        index, live = walk(block, count)
        at = offsets(index, sample, sizes, strides[0], INDEX)
        adv = load(adv_ptr, at, live)
        grad = load(grad_ptr, offsets(index, sample, sizes, strides[1], INDEX), live)
        size = length.to(adv.dtype)
        key = key_of(grad)
        signed = tl.where(grad > 0, size, tl.where(grad < 0, -size, grad))
        x = round_to(adv + signed, adv_ptr.dtype.element_ty)
        tl.store(adv_ptr + at, tl.where((key >= least) & (key != 0), x, adv), mask=live)
