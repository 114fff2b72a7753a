"""Random numbers of a sample: philox.h, to the bit, where the launcher passes enable_fp_fusion=False.

The counter of a quad of elements makes four numbers; the walk is the logical order of the elements.
"""

import triton
import triton.language as tl

from .common import BLOCK, exponent_of, power_of_two

QUADS = tl.constexpr(BLOCK.value // 4)  # counters of a block


@triton.jit
def philox(c0, sample_id, seed, stream):
    """Four uint32 words for each counter c0 of a sample. The stream may carry a draw's number above its 8 bits."""
    c1 = sample_id.to(tl.uint32)
    c2 = (sample_id >> 32).to(tl.uint32)
    c3 = tl.cast(stream, tl.uint32)
    k0 = tl.cast(seed, tl.uint64).to(tl.uint32)
    k1 = (tl.cast(seed, tl.uint64) >> 32).to(tl.uint32)
    for _ in tl.static_range(10):
        p0 = c0.to(tl.uint64) * 0xD2511F53
        p1 = c2.to(tl.uint64) * 0xCD9E8D57
        c0 = (p1 >> 32).to(tl.uint32) ^ c1 ^ k0
        c1 = p1.to(tl.uint32)
        c2 = (p0 >> 32).to(tl.uint32) ^ c3 ^ k1
        c3 = p0.to(tl.uint32)
        k0 = k0 + 0x9E3779B9
        k1 = k1 + 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def counters(block):
    return (tl.cast(block, tl.int64) * QUADS + tl.arange(0, QUADS)).to(tl.uint32)


@triton.jit
def in_order(a, b, c, d):
    """[QUADS] each -> [BLOCK]: a0 b0 c0 d0 a1 b1 ..."""
    return tl.interleave(tl.interleave(a, c), tl.interleave(b, d))


@triton.jit
def negative_log(m):
    """-ln(m 2^-24) for m in 1 .. 2^24, by the polynomial of Cephes."""
    bits = m.to(tl.float32).to(tl.int32, bitcast=True)
    e = (bits >> 23) - 127 - 24
    mantissa = (bits & 0x007FFFFF) | 0x3F800000
    big = mantissa >= 0x3FB504F3  # sqrt(2)
    e = tl.where(big, e + 1, e)
    f = tl.where(big, mantissa - 0x00800000, mantissa).to(tl.float32, bitcast=True) - 1.0
    z = f * f
    p = 7.0376836292e-2 * f + -1.1514610310e-1
    p = p * f + 1.1676998740e-1
    p = p * f + -1.2420140846e-1
    p = p * f + 1.4249322787e-1
    p = p * f + -1.6668057665e-1
    p = p * f + 2.0000714765e-1
    p = p * f + -2.4999993993e-1
    p = p * f + 3.3333331174e-1
    p = p * f * z
    n = e.to(tl.float32)
    p = p + n * -2.12194440e-4
    p = p - 0.5 * z
    return -((f + p) + n * 0.693359375)


@triton.jit
def normal_pair(word0, word1):
    """Box-Muller: radius from the first word, angle from the second, reduced to [-pi/4, pi/4] in integers."""
    radius = tl.sqrt_rn(2.0 * negative_log((word0 >> 8) + 1))
    turn = (word1 >> 8).to(tl.int32)
    quadrant = (turn + (1 << 21)) >> 22
    x = (turn - (quadrant << 22)).to(tl.float32) * 3.7450704e-7  # 2 pi 2^-24
    z = x * x
    s = -1.9515295891e-4 * z + 8.3321608736e-3
    s = s * z + -1.6666654611e-1
    s = s * z * x + x
    c = 2.443315711809948e-5 * z + -1.388731625493765e-3
    c = c * z + 4.166664568298827e-2
    c = c * z * z - 0.5 * z + 1.0
    swap = (quadrant & 1) != 0
    cosine = tl.where(swap, s, c)
    sine = tl.where(swap, c, s)
    cosine = tl.where(((quadrant + 1) & 2) != 0, -cosine, cosine)
    sine = tl.where((quadrant & 2) != 0, -sine, sine)
    return radius * cosine, radius * sine


@triton.jit
def normals(block, sample_id, seed, stream):
    """Standard normals of a block, [BLOCK] float32."""
    w0, w1, w2, w3 = philox(counters(block), sample_id, seed, stream)
    a, b = normal_pair(w0, w1)
    c, d = normal_pair(w2, w3)
    return in_order(a, b, c, d)


@triton.jit
def square_grid(count):
    """The grid of the squares: each is below 64, so count * 64 * grid < 2^53."""
    bits = exponent_of(tl.cast(count + 1, tl.float64)) + 1  # the least with 2^bits >= count + 2
    return power_of_two(46 - bits)


@triton.jit
def identity(ids_ptr, sample):
    """The number by which a sample is known, int64."""
    if ids_ptr is not None:
        sample = tl.load(ids_ptr + sample)
    return sample
