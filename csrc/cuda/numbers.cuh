// Random numbers of a sample, four elements (a quad) to one Philox counter.
#pragma once
#include "common.cuh"
#include "fastattack/philox.h"

namespace fastattack {
inline namespace FA_ISA {

// Where the numbers of a call come from.
struct Numbers {
  u64 seed;
  const i64* ids;  // [B], or null for 0 .. B-1

  FA_DEVICE u64 id(i64 sample) const { return ids ? (u64)ids[sample] : (u64)sample; }
  FA_DEVICE Words words(i64 sample, i64 quad, Stream stream) const {
    return philox((u32)quad, (u32)id(sample), (u32)(id(sample) >> 32), stream, seed);
  }
};

struct FourNormals {
  float v[4];
};

FA_DEVICE FourNormals four_normals(Words w) {
  Normals first = normal_pair(w.w[0], w.w[1]), second = normal_pair(w.w[2], w.w[3]);
  return FourNormals{{first.a, first.b, second.a, second.b}};
}

// A quad in memory, where a sample is walked in VECTORS.
template <class S>
struct alignas(sizeof(S) < 4 ? 4 * sizeof(S) : 16) Four {
  S v[4];
};

// f(quad) for each run of four elements of this block's tile.
template <class S, int K, class F>
FA_DEVICE void for_each_quad(const Samples<S, K>& s, F f) {
  for (i64 q = s.tile() * THREADS + threadIdx.x; 4 * q < s.count; q += s.tiles * THREADS) f(q);
}

}  // namespace FA_ISA
}  // namespace fastattack
