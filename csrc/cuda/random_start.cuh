// adv = a uniform point of the ball about origin. l2: random_start_sums, then random_start_l2, which makes the same
// normals again: that is cheaper than to store and read them.
#pragma once
#include "fastattack/random_start.h"
#include "numbers.cuh"

namespace fastattack {
inline namespace FA_ISA {

template <class S>
struct RandomStart {
  Samples<S, 2> at;  // adv, origin; walked in logical order
  PerSample eps;
  double low, high;
  Numbers numbers;
  double* partials;  // [B, tiles]

  FA_DEVICE Words words(i64 quad) const { return numbers.words(at.sample(), quad, STREAM_RANDOM_START); }
};

// adv = origin + delta at element `i`
template <class S, class T>
FA_DEVICE void start_at(const RandomStart<S>& p, i64 i, T delta) {
  i64 at[3];
  offsets(p.at, p.at.sample(), i, at);
  T origin = Storage<S>::load(p.at.data[1][at[1]]);
  Bounds<T> bounds = {(T)p.low, (T)p.high};
  p.at.data[0][at[0]] = Storage<S>::store(start_point<S>(origin, delta, bounds));
}

template <class S>
FA_KERNEL random_start_linf_kernel(const RandomStart<S> p) {
  using T = typename Storage<S>::real;
  T eps = (T)p.eps.at(p.at.sample());
  for_each_quad(p.at, [&](i64 quad) {
    Words words = p.words(quad);
    for (int j = 0; j < 4; ++j) {
      if (4 * quad + j < p.at.count) start_at(p, 4 * quad + j, eps * (T)symmetric_uniform(words.w[j]));
    }
  });
}

template <class S>
FA_KERNEL random_start_sums_kernel(const RandomStart<S> p) {
  double grid = square_grid(p.at.count), mine = 0.0;
  for_each_quad(p.at, [&](i64 quad) {
    FourNormals normals = four_normals(p.words(quad));
    for (int j = 0; j < 4; ++j) mine += 4 * quad + j < p.at.count ? on_grid(normals.v[j], grid) : 0.0;
  });
  if (p.at.first_thread()) {
    u64 id = p.numbers.id(p.at.sample());
    mine += extra_square(p.numbers.seed, (u32)id, (u32)(id >> 32), grid);
  }
  double total = block_sum(mine);
  if (threadIdx.x == 0) p.partials[p.at.sample() * p.at.tiles + p.at.tile()] = total;
}

template <class S>
FA_KERNEL random_start_l2_kernel(const RandomStart<S> p) {
  using T = typename Storage<S>::real;
  i64 sample = p.at.sample();
  double sum = sum_partials(p.partials, sample, p.at.tiles);
  T scale = once([&] { return (T)start_scale(sum, square_grid(p.at.count), p.eps.at(sample)); });
  for_each_quad(p.at, [&](i64 quad) {
    FourNormals normals = four_normals(p.words(quad));
    for (int j = 0; j < 4; ++j) {
      if (4 * quad + j < p.at.count) start_at(p, 4 * quad + j, scale * (T)normals.v[j]);
    }
  });
}

}  // namespace FA_ISA
}  // namespace fastattack
