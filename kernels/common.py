"""What the kernels share: the walk over a sample, sums over it, and the arithmetic of base.h, storage.h and pgd_step.h.

Every kernel runs on a one-dimensional grid of B * tiles programs. Program `tile` of a sample takes its blocks tile,
tile + tiles, ...; sums are float64 and are added in an order that depends on the sample's size alone. Numbers that need
double precision come as `tl.float64` arguments (a plain Python float would arrive as float32), or, where they differ
from sample to sample, through a pointer beside them.

Offsets follow fastattack/ops/layout.py: `sizes` are four inner dimensions, `strides` hold for each tensor the batch
stride and four inner ones, and INDEX is the integer type in which an index is divided by the sizes; None where each
sample is one run of unit stride.
"""

import triton
import triton.language as tl

BLOCK = tl.constexpr(1024)  # elements that a program handles at once
MAX_TILES = tl.constexpr(256)  # programs whose partial sums make the sum of a sample
SHRINK_MARGIN = tl.constexpr(1.0 - 2.0**-22)  # as in pgd_step.h
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def place(tiles):
    """(sample, tile) of this program."""
    program = tl.program_id(0)
    return (program // tiles).to(tl.int64), program % tiles


@triton.jit
def walk(block, count):
    """The indices of a block within its sample, and which of them exist."""
    index = tl.cast(block, tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return index, index < count


@triton.jit
def offsets(index, sample, sizes, strides, INDEX: tl.constexpr):
    """Where in memory the elements of a sample lie."""
    at = sample * strides[0]
    if INDEX is None:
        at = at + index
    else:
        rest = index.to(INDEX)
        for k in tl.static_range(3):
            outer = rest // sizes[3 - k]
            at += (rest - outer * sizes[3 - k]).to(tl.int64) * strides[4 - k]
            rest = outer
        at += rest.to(tl.int64) * strides[1]
    return at


@triton.jit
def load(ptr, at, live):
    """Elements in the type they are computed in; 0 beyond the sample."""
    x = tl.load(ptr + at, mask=live, other=0)
    if x.dtype != tl.float64:
        x = x.to(tl.float32)
    return x


@triton.jit
def load_mask(mask_ptr, index, live, sample, sizes, strides, INDEX: tl.constexpr):
    """Where the attacker may act: everywhere if there is no mask, which is then the last of the tensors."""
    if mask_ptr is not None:
        at = offsets(index, sample, sizes, strides[-1], INDEX)
        live = tl.load(mask_ptr + at, mask=live, other=0) != 0
    return live


@triton.jit
def per_sample(value, ptr, sample):
    """The float64 number that all samples share, or the sample's own."""
    return tl.full((), value, tl.float64) if ptr is None else tl.load(ptr + sample)


@triton.jit
def put_sums(ptr, sums, sample, tile, tiles, COLUMNS: tl.constexpr):
    """Write this program's part of each sum to ptr [B, COLUMNS, tiles]."""
    for k in tl.static_range(COLUMNS):
        tl.store(ptr + (sample * COLUMNS + k) * tiles + tile, tl.sum(sums[k], 0))


@triton.jit
def load_parts(ptr, sample, tiles, column, COLUMNS: tl.constexpr):
    """What the programs of a sample wrote to one column of ptr [B, COLUMNS, tiles], 0 beyond."""
    lane = tl.arange(0, MAX_TILES)
    return tl.load(ptr + (sample * COLUMNS + column) * tiles + lane, mask=lane < tiles, other=0.0)


@triton.jit
def take_sum(ptr, sample, tiles, column, COLUMNS: tl.constexpr):
    return tl.sum(load_parts(ptr, sample, tiles, column, COLUMNS), 0)


@triton.jit
def max_magnitude(x):
    """Largest of float64 numbers >= 0. Their bit patterns are in the same order, and NaN above all: it is not lost."""
    return tl.max(x.to(tl.int64, bitcast=True), 0).to(tl.float64, bitcast=True)


@triton.jit
def clip(x, low, high):
    """Clamp that lets a NaN in x through."""
    x = tl.where(x < low, low, x)
    return tl.where(x > high, high, x)


@triton.jit
def exponent_of(x):
    return ((x.to(tl.int64, bitcast=True) >> 52) & 0x7FF) - 1023


@triton.jit
def power_of_two(k):
    return ((1023 + k) << 52).to(tl.float64, bitcast=True)


@triton.jit
def power_of_two_scale(largest_ptr, sample, tiles):
    """2^-k for the largest entry 2^k of a sample, from `largest`; 1 where that is 0, not finite or not there."""
    scale = tl.full((), 1.0, tl.float64)
    if largest_ptr is not None:
        top = max_magnitude(load_parts(largest_ptr, sample, tiles, 0, 1))
        k = tl.minimum(tl.maximum(exponent_of(top) + 1, -1000), 1000)
        scale = tl.where((top > 0) & (top < float("inf")), power_of_two(-k), 1.0)
    return scale


@triton.jit
def largest(
    x_ptr,  # [B, ...] float64
    y_ptr,  # [B, ...] float64, or None
    mask_ptr,  # [B, ...] uint8, or None
    largest_ptr,  # [B, tiles] float64, written: max |x|, |y| where the mask holds
    count: tl.int64,
    sizes,
    strides,  # of x, y, mask: those that are there
    tiles,
    INDEX: tl.constexpr,
):
    sample, tile = place(tiles)
    top = tl.zeros((BLOCK,), tl.int64)
    for block in range(tile, tl.cdiv(count, BLOCK), tiles):
        index, live = walk(block, count)
        inside = load_mask(mask_ptr, index, live, sample, sizes, strides, INDEX)
        x = tl.load(x_ptr + offsets(index, sample, sizes, strides[0], INDEX), mask=inside, other=0)
        top = tl.maximum(top, tl.abs(x).to(tl.int64, bitcast=True))
        if y_ptr is not None:
            y = tl.load(y_ptr + offsets(index, sample, sizes, strides[1], INDEX), mask=inside, other=0)
            top = tl.maximum(top, tl.abs(y).to(tl.int64, bitcast=True))
    tl.store(largest_ptr + sample * tiles + tile, max_magnitude(top.to(tl.float64, bitcast=True)))


@triton.jit
def round_to(x, STORAGE: tl.constexpr):
    """The number of type STORAGE nearest to x, still held in the type of x."""
    if INTERPRETED and STORAGE.is_bf16():  # the interpreter's own conversion truncates
        bits = x.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
        rounded = tl.where(x == x, bits.to(tl.float32, bitcast=True), x)
    else:
        rounded = x.to(STORAGE).to(x.dtype)
    return rounded


@triton.jit
def neighbour(s, up, STORAGE: tl.constexpr):
    """The neighbour of s on the grid of STORAGE. Away from zero adds one to the bit pattern, towards zero takes one."""
    if STORAGE.primitive_bitwidth == 16:
        bits = s.to(STORAGE).to(tl.int16, bitcast=True)
        moved = tl.where(up == (bits >= 0), bits + 1, bits - 1).to(tl.int16)
        # The steps from zero; in float32 and float64 a sum that rounds to zero is exact, and nobody asks.
        moved = tl.where(s == 0, tl.where(up, 1, -0x7FFF).to(tl.int16), moved)
    elif STORAGE.primitive_bitwidth == 32:
        bits = s.to(tl.int32, bitcast=True)
        moved = tl.where(up == (bits >= 0), bits + 1, bits - 1)
    else:
        bits = s.to(tl.int64, bitcast=True)
        moved = tl.where(up == (bits >= 0), bits + 1, bits - 1)
    return moved.to(STORAGE, bitcast=True).to(s.dtype)


@triton.jit
def add_inward(origin, delta, STORAGE: tl.constexpr):
    """origin + delta on the storage grid, never farther from origin than |delta|."""
    s = round_to(origin + delta, STORAGE)
    moved = s - origin
    inward_up = delta < 0
    beyond = tl.where(inward_up, moved < delta, moved > delta)
    return tl.where(beyond, neighbour(s, inward_up, STORAGE), s)


@triton.jit
def clip_to_ball_linf(x, origin, eps, STORAGE: tl.constexpr):
    """x on the storage grid where that lies in the box, else the face of the box on x's side, rounded inwards."""
    x = round_to(x, STORAGE)
    moved = x - origin
    face = add_inward(origin, tl.where(moved < 0, -eps, eps), STORAGE)
    return tl.where(tl.abs(moved) > eps, face, x)


@triton.jit
def shrink_to(norm, eps):
    """The factor that brings a vector of this norm into the ball: a hair inside, against rounding."""
    return tl.where(norm > eps, eps / norm * SHRINK_MARGIN, 1.0)


@triton.jit
def store_within(ptr, at, x, origin, inside, live, low, high):
    """Write x within the bounds where the mask holds, and origin elsewhere."""
    low, high = tl.full((), low, tl.float64).to(x.dtype), tl.full((), high, tl.float64).to(x.dtype)
    tl.store(ptr + at, tl.where(inside, clip(x, low, high), origin), mask=live)
