// Runs of random numbers: Philox words one to a vector lane, then uniforms or normals in the order of the elements.
#pragma once
#include <fastattack/philox.h>

#include "team.h"
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace fastattack {
inline namespace FA_ISA {

constexpr i64 QUADS = BLOCK / 4 + 2;  // a run of BLOCK elements may start and end inside a quad

struct Source {
  u64 seed;
  u32 id_low, id_high;
  Stream stream;
  Source(u64 seed, const long long* sample_ids, i64 b, Stream stream) : seed(seed), stream(stream) {
    u64 id = (u64)(sample_ids ? sample_ids[b] : b);
    id_low = (u32)id, id_high = (u32)(id >> 32);
  }
};

struct WordRun {
  u32 w[4][QUADS + 8];  // whole vectors are written
};

// Counters in 64-bit lanes. Only the low halves count: the widening multiplication reads nothing else, so a round is
// two multiplications, two shifts and two exclusive ors, and no mask.
#if defined(__AVX512F__)
constexpr int WIDE = 8;
#elif defined(__AVX2__)
constexpr int WIDE = 4;
#else
constexpr int WIDE = 2;
#endif
typedef u64 Wide __attribute__((vector_size(WIDE * sizeof(u64))));
typedef u32 WideLow __attribute__((vector_size(WIDE * sizeof(u32))));

FA_HD Wide multiply_low(Wide a, u32 b) {
#if defined(__AVX512F__)
  return (Wide)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(b));
#elif defined(__AVX2__)
  return (Wide)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(b));
#elif defined(__SSE2__)
  return (Wide)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(b));
#else
  return (a & 0xffffffffu) * (u64)b;
#endif
}

FA_HD void store_low(u32* to, Wide x) {
  WideLow low = __builtin_convertvector(x, WideLow);
  __builtin_memcpy(to, &low, sizeof low);
}

// philox() of philox.h for WIDE counters at once.
FA_HD void make_words_at(WordRun& words, const Source& source, i64 first, i64 q) {
  Wide c0, c1 = Wide{} + source.id_low, c2 = Wide{} + source.id_high, c3 = Wide{} + (u64)source.stream;
  for (int l = 0; l < WIDE; ++l) c0[l] = (u64)(first + q + l);
  u32 k0 = (u32)source.seed, k1 = (u32)(source.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    Wide p0 = multiply_low(c0, 0xD2511F53u), p1 = multiply_low(c2, 0xCD9E8D57u);
    c0 = (p1 >> 32) ^ c1 ^ (u64)k0;
    c1 = p1;
    c2 = (p0 >> 32) ^ c3 ^ (u64)k1;
    c3 = p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  store_low(words.w[0] + q, c0), store_low(words.w[1] + q, c1);
  store_low(words.w[2] + q, c2), store_low(words.w[3] + q, c3);
}

// The words of the quads from `first`: independent counters.
inline void make_words(WordRun& words, const Source& source, i64 first, i64 quads) {
  for (i64 q = 0; q < quads; q += WIDE) make_words_at(words, source, first, q);
}

// out[i] for the elements [position, position + n) of the sample; uniform on (-1, 1).
inline void uniforms(float* out, const Source& source, i64 position, i64 n) {
  WordRun words;
  float all[4 * QUADS];
  i64 first = position / 4, quads = (position + n + 3) / 4 - first;
  make_words(words, source, first, quads);
  for (i64 q = 0; q < quads; ++q)
    for (int k = 0; k < 4; ++k) all[4 * q + k] = symmetric_uniform(words.w[k][q]);
  __builtin_memcpy(out, all + position % 4, (u64)n * sizeof(float));
}

inline void normals(float* out, const Source& source, i64 position, i64 n) {
  WordRun words;
  float lane[4][QUADS], all[4 * QUADS];
  i64 first = position / 4, quads = (position + n + 3) / 4 - first;
  make_words(words, source, first, quads);
#pragma omp simd
  for (i64 q = 0; q < quads; ++q) {
    Normals ab = normal_pair(words.w[0][q], words.w[1][q]), cd = normal_pair(words.w[2][q], words.w[3][q]);
    lane[0][q] = ab.a;
    lane[1][q] = ab.b;
    lane[2][q] = cd.a;
    lane[3][q] = cd.b;
  }
  for (i64 q = 0; q < quads; ++q)
    for (int k = 0; k < 4; ++k) all[4 * q + k] = lane[k][q];
  __builtin_memcpy(out, all + position % 4, (u64)n * sizeof(float));
}

}  // namespace FA_ISA
}  // namespace fastattack
