"""x <- a x + b eps_hat + c z, z standard normal: diffusion_step.h, to the bit."""

import triton
import triton.language as tl

from .common import BLOCK, load, offsets, per_sample, place, round_to, walk
from .numbers import identity, normals


@triton.jit(do_not_specialize=["seed", "stream"])
def diffusion_step(
    x_ptr,  # [B, ...] read and written
    eps_ptr,  # [B, ...], or None where b is 0
    ids_ptr,  # [B] int64, or None for 0 .. B-1
    seed: tl.uint64,
    stream: tl.uint32,  # with the step's number
    a: tl.float64,
    a_ptr,  # [B] float64, or None
    b: tl.float64,
    b_ptr,  # [B] float64, or None
    c: tl.float64,
    c_ptr,  # [B] float64, or None
    count: tl.int64,
    sizes,
    strides,
    tiles,
    INDEX: tl.constexpr,
):
    sample, tile = place(tiles)
    index, live = walk(tile, count)
    at = offsets(index, sample, sizes, strides[0], INDEX)
    x = load(x_ptr, at, live)
    share = per_sample(a, a_ptr, sample).to(x.dtype)
    total = tl.where(share == 0, 0.0, share * x)
    if eps_ptr is not None:
        guide = load(eps_ptr, offsets(index, sample, sizes, strides[1], INDEX), live)
        share = per_sample(b, b_ptr, sample).to(x.dtype)
        total += tl.where(share == 0, 0.0, share * guide)
    drawn = tl.zeros((BLOCK,), x.dtype)
    share = per_sample(c, c_ptr, sample).to(x.dtype)
    if share != 0:
        drawn = share * normals(tile, identity(ids_ptr, sample), seed, stream).to(x.dtype)
    tl.store(x_ptr + at, round_to(total + drawn, x_ptr.dtype.element_ty), mask=live)
