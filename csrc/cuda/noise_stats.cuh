// out = mean, std, l1, l2, linf, typicality of each sample: noise_stats_sums, then noise_stats (one block a sample).
#pragma once
#include "common.cuh"
#include "fastattack/noise_stats.h"

namespace fastattack {
inline namespace FA_ISA {

template <class S>
struct NoiseStats {
  Samples<S, 1> at;  // noise
  PerSample sigma, mean, scale;
  NoiseSums* partials;             // [B, tiles]
  typename Storage<S>::real* out;  // [B, NOISE_STATS]
};

// `largest` is no sum; a NaN in it stays.
FA_DEVICE void add(NoiseSums& to, const NoiseSums& from) {
  to.sum += from.sum;
  to.square += from.square;
  to.absolute += from.absolute;
  to.raw_square += from.raw_square;
  to.largest = from.largest > to.largest || from.largest != from.largest ? from.largest : to.largest;
}

template <class S>
FA_KERNEL noise_stats_sums_kernel(const NoiseStats<S> p) {
  using T = typename Storage<S>::real;
  double mean = p.mean.at(p.at.sample()), scale = p.scale.at(p.at.sample());
  sum_tile(p.at, p.partials, [&](const T(&x)[1]) { return noise_terms((double)x[0], mean, scale); });
}

template <class S>
FA_KERNEL noise_stats_kernel(const NoiseStats<S> p) {
  i64 sample = blockIdx.x;
  NoiseSums sums = sum_partials(p.partials, sample, p.at.tiles);
  if (threadIdx.x != 0) return;
  double stats[NOISE_STATS];
  finish_noise_stats(sums, (double)p.at.count, p.mean.at(sample), p.sigma.at(sample), p.scale.at(sample), stats);
  for (int k = 0; k < NOISE_STATS; ++k) p.out[sample * NOISE_STATS + k] = (typename Storage<S>::real)stats[k];
}

}  // namespace FA_ISA
}  // namespace fastattack
