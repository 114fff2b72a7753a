"""total <- keep total + weight grad: accumulate.h."""

import triton
import triton.language as tl

from .common import load, offsets, per_sample, place, round_to, walk


@triton.jit
def accumulate(
    total_ptr,  # [B, ...] read and written
    grad_ptr,  # [B, ...]
    keep: tl.float64,
    keep_ptr,  # [B] float64, or None
    weight: tl.float64,
    weight_ptr,  # [B] float64, or None
    count: tl.int64,
    sizes,
    strides,
    tiles,
    INDEX: tl.constexpr,
):
    sample, tile = place(tiles)
    index, live = walk(tile, count)
    at = offsets(index, sample, sizes, strides[0], INDEX)
    total = load(total_ptr, at, live)
    grad = load(grad_ptr, offsets(index, sample, sizes, strides[1], INDEX), live)
    k = per_sample(keep, keep_ptr, sample).to(total.dtype)
    w = per_sample(weight, weight_ptr, sample).to(total.dtype)
    kept = tl.where(k == 0, 0.0, k * total)
    added = tl.where(w == 0, 0.0, w * grad)
    tl.store(total_ptr + at, round_to(kept + added, total_ptr.dtype.element_ty), mask=live)
