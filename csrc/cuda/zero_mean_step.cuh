// adv = one step of ObsAtk from adv: zero_mean_step_sums, then zero_mean_step.
#pragma once
#include "common.cuh"
#include "fastattack/zero_mean_step.h"

namespace fastattack {
inline namespace FA_ISA {

template <class S>
struct ZeroMeanStep {
  Samples<S, 3> at;  // adv, grad, origin
  PerSample eps, step;
  PerSample grad_scale, delta_scale;
  ZeroMeanSums* partials;  // [B, tiles]
  Pivots* pivots;          // [B]

  FA_DEVICE Scales scales() const { return Scales{grad_scale.at(at.sample()), delta_scale.at(at.sample())}; }
};

template <class S>
FA_KERNEL zero_mean_step_sums_kernel(const ZeroMeanStep<S> p) {
  using T = typename Storage<S>::real;
  i64 sample = p.at.sample();
  Scales scales = p.scales();
  T first[3];
  for (int k = 0; k < 3; ++k) first[k] = Storage<S>::load(p.at.data[k][sample * p.at.strides[k][0]]);
  Pivots pivots = pivots_of(first[0], first[1], first[2], scales);
  if (p.at.first_thread()) p.pivots[sample] = pivots;  // the next kernel overwrites adv
  sum_tile(p.at, p.partials, [&](const T(&x)[3]) { return zero_mean_terms(x[0], x[1], x[2], scales, pivots); });
}

template <class S>
FA_KERNEL zero_mean_step_kernel(const ZeroMeanStep<S> p) {
  using T = typename Storage<S>::real;
  i64 sample = p.at.sample();
  ZeroMeanSums sums = sum_partials(p.partials, sample, p.at.tiles);
  ZeroMeanMap<T> zero_mean = once([&] {
    return zero_mean_map<S>(sums, p.pivots[sample], (double)p.at.count, p.eps.at(sample), p.step.at(sample),
                            p.scales());
  });
  if (zero_mean.still) return;
  map(p.at, [&](const T(&x)[3], bool) { return zero_mean_apply<S>(x[0], x[1], x[2], zero_mean); });
}

}  // namespace FA_ISA
}  // namespace fastattack
