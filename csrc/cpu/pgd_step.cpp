#include <fastattack/pgd_step.h>

#include "blocks.h"
#include "isa.h"
#include "scale.h"

namespace fastattack {
inline namespace FA_ISA {

FA_HD void accumulate(StepSums& into, const StepSums& from) {
  into.gg += from.gg;
  into.dg += from.dg;
  into.dd += from.dd;
}

namespace {

template <class S, class T>
void linf_run(T* __restrict adv, const T* __restrict grad, const T* __restrict origin, const u8* mask, i64 n, T eps,
              T step, Bounds<T> bounds) {
  if (!mask) {
#pragma omp simd
    for (i64 i = 0; i < n; ++i) adv[i] = pgd_step_linf<S>(adv[i], grad[i], origin[i], eps, step, bounds);
    return;
  }
#pragma omp simd
  for (i64 i = 0; i < n; ++i) {
    T x = pgd_step_linf<S>(adv[i], grad[i], origin[i], eps, step, bounds);
    adv[i] = mask[i] ? x : origin[i];
  }
}

template <class S>
void step_linf(const Call& call) {
  using T = typename Storage<S>::real;
  for_elements(call.shape, call.threads, [&](i64 b, i64 first, i64 last) {
    T eps = (T)call.eps[b], step = (T)call.step[b];
    Bounds<T> bounds{(T)call.low, (T)call.high};
    Run<S> adv, grad, origin;
    MaskRun mask;
    for_runs(call.shape, first, last, [&](const Index& i, i64 n, i64) {
      T* a = adv.open(call.adv, b, i, n);
      linf_run<S>(a, grad.open(call.grad, b, i, n), origin.open(call.origin, b, i, n), mask.open(call.mask, b, i, n), n,
                  eps, step, bounds);
      adv.close(a, call.adv, b, i, n);
    });
  });
}

template <class T>
StepSums sum_run(const T* adv, const T* grad, const T* origin, const u8* mask, i64 n, Scales scales) {
  double gg = 0, dg = 0, dd = 0;
  if (!mask) {
#pragma omp simd reduction(+ : gg, dg, dd)
    for (i64 i = 0; i < n; ++i) {
      StepSums t = step_terms(adv[i], grad[i], origin[i], scales);
      gg += t.gg, dg += t.dg, dd += t.dd;
    }
    return StepSums{gg, dg, dd};
  }
  for (i64 i = 0; i < n; ++i) {
    StepSums t = step_terms(adv[i], grad[i], origin[i], scales);
    if (mask[i]) gg += t.gg, dg += t.dg, dd += t.dd;
  }
  return StepSums{gg, dg, dd};
}

template <class S, class T>
void apply_run(T* __restrict adv, const T* __restrict grad, const T* __restrict origin, const u8* mask, i64 n,
               StepL2<T> l2, Bounds<T> bounds) {
  if (!mask) {
#pragma omp simd
    for (i64 i = 0; i < n; ++i)
      adv[i] = apply_l2<S>(adv[i], (grad[i] * l2.first) * l2.second, origin[i], l2.shrink, bounds);
    return;
  }
#pragma omp simd
  for (i64 i = 0; i < n; ++i) {
    T x = apply_l2<S>(adv[i], (grad[i] * l2.first) * l2.second, origin[i], l2.shrink, bounds);
    adv[i] = mask[i] ? x : origin[i];
  }
}

template <class S>
void step_l2_all(const Call& call) {
  using T = typename Storage<S>::real;
  Segments segments(call.shape.count());
  for_samples<StepSums>(call.shape, call.threads, [&](Team& team, Partials<StepSums>& partials, i64 b) {
    Run<S> adv, grad, origin;
    MaskRun mask;
    Scales scales = step_scales<S>(call, team, b);
    StepSums sums = team_sum(team, partials, segments, [&](int s) {
      StepSums total{0, 0, 0};
      for_runs(call.shape, segments.first(s), segments.last(s), [&](const Index& i, i64 n, i64) {
        accumulate(total, sum_run(adv.open(call.adv, b, i, n), grad.open(call.grad, b, i, n),
                                  origin.open(call.origin, b, i, n), mask.open(call.mask, b, i, n), n, scales));
      });
      return total;
    });
    StepL2<T> l2 = step_l2(sums, call.eps[b], call.step[b], scales, T(0));
    Bounds<T> bounds{(T)call.low, (T)call.high};
    // Backwards: what the reduction read last is still in the cache.
    for (int s = team.last(segments.number) - 1; s >= team.first(segments.number); --s)
      for_runs(call.shape, segments.first(s), segments.last(s), [&](const Index& i, i64 n, i64) {
        T* a = adv.open(call.adv, b, i, n);
        apply_run<S>(a, grad.open(call.grad, b, i, n), origin.open(call.origin, b, i, n), mask.open(call.mask, b, i, n),
                     n, l2, bounds);
        adv.close(a, call.adv, b, i, n);
      });
  });
}

}  // namespace

void pgd_step(const Call& call) {
  with_storage(call.dtype, [&](auto s) {
    using S = decltype(s);
    return call.norm == Norm::linf ? step_linf<S>(call) : step_l2_all<S>(call);
  });
}

}  // namespace FA_ISA
}  // namespace fastattack
