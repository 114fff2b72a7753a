// The l2 step on runs of a sample: its sums, and its application. pgd_step takes it along the gradient, momentum_step
// along the momentum.
#pragma once
#include <fastattack/pgd_step.h>

#include "blocks.h"
#include "lanes.h"

namespace fastattack {
inline namespace FA_ISA {

FA_HD void accumulate(StepSums& into, const StepSums& from) {
  into.gg += from.gg;
  into.dg += from.dg;
  into.dd += from.dd;
}

template <class T>
StepSums sum_run(const T* adv, const T* grad, const T* origin, const u8* mask, i64 n, Scales scales) {
  double gg = 0, dg = 0, dd = 0;
#pragma omp simd reduction(+ : gg, dg, dd)
  for (i64 i = 0; i < n; ++i) {
    bool moves = mask ? mask[i] != 0 : true;
    StepSums t = step_terms(moves ? adv[i] : origin[i], moves ? grad[i] : T(0), origin[i], scales);
    gg += t.gg, dg += t.dg, dd += t.dd;
  }
  return StepSums{gg, dg, dd};
}

inline StepSums sum_run_fast(const float* adv, const float* grad, const float* origin, i64 n) {
  HalfLanes gg{}, dg{}, dd{};
  i64 rest = for_groups(n, [&](i64 i) {
    Lanes sum_gg{}, sum_dg{}, sum_dd{};
    for (i64 k = i; k < i + HOLD_NORM * LANES; k += LANES) {
      Lanes g = load_lanes(grad + k), d = load_lanes(adv + k) - load_lanes(origin + k);
      sum_gg += g * g, sum_dg += d * g, sum_dd += d * d;
    }
    add_lanes(gg, sum_gg), add_lanes(dg, sum_dg), add_lanes(dd, sum_dd);
  });
  StepSums sums = sum_run(adv + rest, grad + rest, origin + rest, nullptr, n - rest, Scales{1, 1});
  accumulate(sums, StepSums{across(gg), across(dg), across(dd)});
  return sums;
}

template <class S, class T>
void apply_run(T* __restrict adv, const T* __restrict grad, const T* __restrict origin, const u8* mask, i64 n,
               StepL2<T> l2, Bounds<T> bounds) {
  if (!mask) {
    for (i64 at = 0; at < n; at += FETCH) {
      fetch_ahead(adv + at, n - at), fetch_ahead(grad + at, n - at), fetch_ahead(origin + at, n - at);
      i64 end = at + FETCH < n ? at + FETCH : n;
#pragma omp simd
      for (i64 i = at; i < end; ++i)
        adv[i] = apply_l2<S>(adv[i], (grad[i] * l2.first) * l2.second, origin[i], l2.shrink, bounds);
    }
    return;
  }
#pragma omp simd
  for (i64 i = 0; i < n; ++i) {
    T x = apply_l2<S>(adv[i], (grad[i] * l2.first) * l2.second, origin[i], l2.shrink, bounds);
    adv[i] = mask[i] ? x : origin[i];
  }
}

}  // namespace FA_ISA
}  // namespace fastattack
