"""Philox 4x32-10 and what random_start makes of it, in torch integers; the bits of philox.h and random_start.h."""

from __future__ import annotations

import math

import torch
from torch import Tensor

STREAM_RANDOM_START = 1
STREAM_TYPICAL_NOISE = 2
STREAM_DIFFUSION = 3
STREAM_EPOCH = 4
STREAM_CHOICE = 5
STREAM_QUERY = 6  # what black-box attacks draw for each query, in torch alone
STREAM_VIEW = 7  # the noise of a random view, in torch alone
STREAM_DRAW = 8  # the seeds of a random model's draws
STREAM_COPIES = 9  # the seeds of a smoothed model's draws
STREAM_MADE = 10  # the queries that a distillation makes, in torch alone
STREAM_PAIR = 11  # the deformations, contrasts and noise of pairs for registration, in torch alone
_MASK = 0xFFFFFFFF


def _multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """(high, low) 32-bit halves of a * b, for 32-bit values held in int64 without overflow."""
    high, low = a * (b >> 16), a * (b & 0xFFFF)
    return (high + (low >> 16)) >> 16, (((high & 0xFFFF) << 16) + low) & _MASK


def philox(c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four 32-bit words for each counter (int64 tensors of 32-bit values, broadcast together).

    Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    k0, k1 = seed & _MASK, seed >> 32
    for _ in range(10):
        high0, low0 = _multiply(0xD2511F53, c0)
        high1, low1 = _multiply(0xCD9E8D57, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return c0, c1, c2, c3


def numbered(stream: int, number: int) -> int:
    """The stream of draw ``number`` < 2**24: it lies above the 8 bits of the stream's own."""
    return stream + (number << 8)


def sample_words(quads: Tensor, ids: Tensor, seed: int, stream: int) -> Tensor:
    """Words (B, len(quads), 4) of each sample's counters."""
    c0 = quads[None, :].expand(len(ids), -1)
    c1 = (ids & _MASK)[:, None].expand_as(c0)
    c2 = ((ids >> 32) & _MASK)[:, None].expand_as(c0)
    return torch.stack(philox(c0, c1, c2, torch.full_like(c0, stream), seed), -1)


def _element_words(count: int, seed: int, ids: Tensor, stream: int) -> Tensor:
    """Words (B, quads, 4) for the elements of each sample."""
    quads = torch.arange((count + 3) // 4, device=ids.device)
    return sample_words(quads, ids, seed, stream)


def start_uniforms(count: int, seed: int, ids: Tensor) -> Tensor:
    """Uniforms on (-1, 1), (B, count) float32: odd multiples of 2^-24."""
    words = _element_words(count, seed, ids, STREAM_RANDOM_START).flatten(1)[:, :count]
    return ((words >> 8) * 2 + 1 - (1 << 24)).float() * 2.0**-24


def negative_log(m: Tensor) -> Tensor:
    """-ln(m 2^-24) in float32, by the polynomial of philox.h."""
    bits = m.float().view(torch.int32)
    exponent = (bits >> 23) - 127 - 24
    mantissa = (bits & 0x007FFFFF) | 0x3F800000
    big = mantissa >= 0x3FB504F3
    exponent = torch.where(big, exponent + 1, exponent)
    f = torch.where(big, mantissa - 0x00800000, mantissa).view(torch.float32) - 1.0
    z = f * f
    p = torch.full_like(f, 7.0376836292e-2)
    for c in (
        -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
        -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
    ):  # fmt: skip
        p = p * f + c
    p = p * f * z
    n = exponent.float()
    p = p + n * -2.12194440e-4
    p = p - 0.5 * z
    return -((f + p) + n * 0.693359375)


def normal_pairs(word0: Tensor, word1: Tensor) -> tuple[Tensor, Tensor]:
    """Two standard normals for each pair of words (Box-Muller), float32, by the polynomials of philox.h."""
    # torch's float32 square root on the CPU may be one ulp off; through float64 it is the nearest.
    radius = (2.0 * negative_log((word0 >> 8) + 1)).double().sqrt().float()
    turn = word1 >> 8
    quadrant = (turn + (1 << 21)) >> 22
    x = (turn - (quadrant << 22)).float() * 3.7450704e-7
    z = x * x
    s = torch.full_like(x, -1.9515295891e-4)
    s = s * z + 8.3321608736e-3
    s = s * z + -1.6666654611e-1
    s = s * z * x + x
    c = torch.full_like(x, 2.443315711809948e-5)
    c = c * z + -1.388731625493765e-3
    c = c * z + 4.166664568298827e-2
    c = c * z * z - 0.5 * z + 1.0
    swap = (quadrant & 1) == 1
    cosine, sine = torch.where(swap, s, c), torch.where(swap, c, s)
    cosine = torch.where(((quadrant + 1) & 2) == 2, -cosine, cosine)
    sine = torch.where((quadrant & 2) == 2, -sine, sine)
    return radius * cosine, radius * sine


def sample_normals(count: int, seed: int, ids: Tensor, stream: int) -> Tensor:
    """Standard normals (B, count) float32."""
    words = _element_words(count, seed, ids, stream)
    a, b = normal_pairs(words[..., 0], words[..., 1])
    c, d = normal_pairs(words[..., 2], words[..., 3])
    return torch.stack([a, b, c, d], -1).flatten(1)[:, :count]


def _square_grid(count: int) -> float:
    return 2.0 ** (46 - math.ceil(math.log2(count + 2)))


def _root(squares: Tensor) -> Tensor:
    """The nearest square roots of (B,) float64, which torch does not promise."""
    roots = [math.sqrt(x) if x >= 0 else math.nan for x in squares.tolist()]
    return torch.tensor(roots, dtype=torch.float64, device=squares.device)


def start_normals(count: int, seed: int, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Standard normals (B, count) float32, and the length (B,) float64 of the (count + 2)-vector they belong to."""
    normals = sample_normals(count, seed, ids, STREAM_RANDOM_START)
    beyond = sample_words(torch.tensor([0xFFFFFFFF], device=ids.device), ids, seed, STREAM_RANDOM_START)[:, 0]
    extra = torch.stack(normal_pairs(beyond[:, 0], beyond[:, 1]), 1)
    grid = _square_grid(count)
    squares = torch.cat([normals, extra], 1).double().square() * grid
    return normals, _root((squares + 0.5).floor().sum(1) / grid)


def shell_of(normals: Tensor, sigma: Tensor, typicality: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """(scale, shift), (B,) float64, that put normals (B, d) on the shell; NaN as typicality asks for plain noise.

    Normals and squares are summed as whole numbers, ties to even, as typical_noise.h does.
    """
    count = normals.shape[1]
    grid = _square_grid(count)
    wide = normals.double()
    centre = (wide * (8 * grid)).round().sum(1) / (8 * grid) / count
    square = (wide * wide * grid).round().sum(1) / grid - count * centre * centre
    scale = sigma * _root(count * (1 + 2 * typicality)) / _root(square)
    plain = typicality.isnan()
    return torch.where(plain, sigma, scale), torch.where(plain, mean, mean - scale * centre)
