// out = mse, l1, l2, linf of the difference of two samples: distances_sums, then distances (one block a sample).
#pragma once
#include "common.cuh"
#include "fastattack/distances.h"

namespace fastattack {
inline namespace FA_ISA {

template <class S>
struct Distances {
  Samples<S, 2> at;        // a, b
  DistanceSums* partials;  // [B, tiles]
  double* out;             // [B, DISTANCES]
};

// `largest` is no sum; a NaN in it stays.
FA_DEVICE void add(DistanceSums& to, const DistanceSums& from) {
  to.square += from.square, to.shrunk += from.shrunk, to.grown += from.grown;
  to.absolute += from.absolute;
  to.largest = from.largest > to.largest || from.largest != from.largest ? from.largest : to.largest;
}

template <class S>
FA_KERNEL distances_sums_kernel(const Distances<S> p) {
  using T = typename Storage<S>::real;
  sum_tile(p.at, p.partials, [&](const T(&x)[2]) { return distance_terms(x[0], x[1]); });
}

template <class S>
FA_KERNEL distances_kernel(const Distances<S> p) {
  i64 sample = blockIdx.x;
  DistanceSums sums = sum_partials(p.partials, sample, p.at.tiles);
  if (threadIdx.x != 0) return;
  finish_distances(sums, (double)p.at.count, p.out + sample * DISTANCES);
}

}  // namespace FA_ISA
}  // namespace fastattack
