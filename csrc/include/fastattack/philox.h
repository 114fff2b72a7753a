// Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), and what is made of its
// words.
//
// key = (seed low, seed high); counter = (element index / 4, sample id low, sample id high, stream), where a stream of
// many draws has the number of the draw above its own 8 bits. Everything below uses +, -, * and square root alone, each
// rounded once (no fused multiply-add), so every backend makes the same bits.
#pragma once
#include "base.h"

namespace fastattack {
inline namespace FA_ISA {

enum Stream : u32 {
  STREAM_RANDOM_START = 1,
  STREAM_TYPICAL_NOISE = 2,
  STREAM_DIFFUSION = 3,
  STREAM_EPOCH = 4,  // these two are drawn in Python (sampler.py)
  STREAM_CHOICE = 5,
};

// The stream of draw `number` < 2^24.
FA_HD Stream numbered(Stream stream, u32 number) { return (Stream)(stream + (number << 8)); }

struct Words {
  u32 w[4];
};

FA_HD Words philox(u32 c0, u32 c1, u32 c2, u32 c3, u64 seed) {
  u32 k0 = (u32)seed, k1 = (u32)(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    u64 p0 = (u64)0xD2511F53u * c0, p1 = (u64)0xCD9E8D57u * c2;
    c0 = (u32)(p1 >> 32) ^ c1 ^ k0;
    c1 = (u32)p1;
    c2 = (u32)(p0 >> 32) ^ c3 ^ k1;
    c3 = (u32)p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return Words{{c0, c1, c2, c3}};
}

// Uniform on (-1, 1): an odd multiple of 2^-24 from the upper 24 bits, exact and symmetric.
FA_HD float symmetric_uniform(u32 word) {
  i32 odd = (i32)((word >> 8) * 2u + 1u) - (1 << 24);
  return (float)odd * 0x1p-24f;
}

// -ln(u) for u = m 2^-24, m in 1 .. 2^24. f in [sqrt(1/2), sqrt(2)) after m = 2^e f; the polynomial is that of Cephes.
FA_HD float negative_log(u32 m) {
  u32 b = bits_of((float)m);
  i32 e = (i32)(b >> 23) - 127 - 24;
  u32 mantissa = (b & 0x007fffffu) | 0x3f800000u;
  bool big = mantissa >= 0x3fb504f3u;  // sqrt(2)
  e = big ? e + 1 : e;
  float f = float_of(big ? mantissa - 0x00800000u : mantissa) - 1.0f;
  float z = f * f;
  float p = 7.0376836292e-2f;
  p = p * f + -1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f + -1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f + -1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f + -2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  p = p * f * z;
  float n = (float)e;
  p = p + n * -2.12194440e-4f;
  p = p - 0.5f * z;
  return -((f + p) + n * 0.693359375f);
}

struct Normals {
  float a, b;
};

// Box-Muller on two words: radius from the first, angle from the second, reduced to [-pi/4, pi/4] in integers.
FA_HD Normals normal_pair(u32 word0, u32 word1) {
  float radius = root(2.0f * negative_log((word0 >> 8) + 1u));
  u32 turn = (word1 >> 8);
  u32 quadrant = (turn + (1u << 21)) >> 22;
  i32 rest = (i32)turn - (i32)(quadrant << 22);
  float x = (float)rest * 3.7450704e-7f;  // 2 pi 2^-24
  float z = x * x;
  float s = -1.9515295891e-4f;
  s = s * z + 8.3321608736e-3f;
  s = s * z + -1.6666654611e-1f;
  s = s * z * x + x;
  float c = 2.443315711809948e-5f;
  c = c * z + -1.388731625493765e-3f;
  c = c * z + 4.166664568298827e-2f;
  c = c * z * z - 0.5f * z + 1.0f;
  bool swap = quadrant & 1u;
  float cosine = swap ? s : c;
  float sine = swap ? c : s;
  cosine = ((quadrant + 1u) & 2u) ? -cosine : cosine;
  sine = (quadrant & 2u) ? -sine : sine;
  return Normals{radius * cosine, radius * sine};
}

}  // namespace FA_ISA
}  // namespace fastattack
