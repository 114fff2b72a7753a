// adv = one projected-gradient step from adv. l2: pgd_step_sums, then pgd_step_l2.
#pragma once
#include "common.cuh"
#include "fastattack/pgd_step.h"

namespace fastattack {
inline namespace FA_ISA {

template <class S>
struct PgdStep {
  Samples<S, 3> at;  // adv, grad, origin
  PerSample eps, step;
  double low, high;
  PerSample grad_scale, delta_scale;
  StepSums* partials;  // [B, tiles]

  FA_DEVICE Scales scales() const { return Scales{grad_scale.at(at.sample()), delta_scale.at(at.sample())}; }
};

template <class S>
FA_KERNEL pgd_step_linf_kernel(const PgdStep<S> p) {
  using T = typename Storage<S>::real;
  T eps = (T)p.eps.at(p.at.sample()), step = (T)p.step.at(p.at.sample());
  Bounds<T> bounds = {(T)p.low, (T)p.high};
  map(p.at, [&](const T(&x)[3], bool on) {
    T y = pgd_step_linf<S>(x[0], x[1], x[2], eps, step, bounds);
    return on ? y : x[2];
  });
}

template <class S>
FA_KERNEL pgd_step_sums_kernel(const PgdStep<S> p) {
  using T = typename Storage<S>::real;
  Scales scales = p.scales();
  sum_tile(p.at, p.partials, [&](const T(&x)[3]) { return step_terms(x[0], x[1], x[2], scales); });
}

template <class S>
FA_KERNEL pgd_step_l2_kernel(const PgdStep<S> p) {
  using T = typename Storage<S>::real;
  i64 sample = p.at.sample();
  StepSums sums = sum_partials(p.partials, sample, p.at.tiles);
  StepL2<T> l2 = once([&] { return step_l2(sums, p.eps.at(sample), p.step.at(sample), p.scales(), T(0)); });
  Bounds<T> bounds = {(T)p.low, (T)p.high};
  map(p.at, [&](const T(&x)[3], bool on) {
    T y = apply_l2<S>(x[0], x[1] * l2.first * l2.second, x[2], l2.shrink, bounds);
    return on ? y : x[2];
  });
}

}  // namespace FA_ISA
}  // namespace fastattack
