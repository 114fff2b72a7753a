#include "isa.h"
#include "scale.h"
#include "step_l2.h"

namespace fastattack {
inline namespace FA_ISA {
namespace {

template <class S, class T>
void linf_run(T* __restrict adv, const T* __restrict grad, const T* __restrict origin, const u8* mask, i64 n, T eps,
              T step, Bounds<T> bounds) {
  if (!mask) {
    for (i64 at = 0; at < n; at += FETCH) {
      fetch_ahead(adv + at, n - at), fetch_ahead(grad + at, n - at), fetch_ahead(origin + at, n - at);
      i64 end = at + FETCH < n ? at + FETCH : n;
#pragma omp simd
      for (i64 i = at; i < end; ++i) adv[i] = pgd_step_linf<S>(adv[i], grad[i], origin[i], eps, step, bounds);
    }
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
  i64 longest = longest_run<S>(call.adv, call.grad, call.origin, call.mask);
  for_elements(call.shape, call.threads, [&](i64 b, i64 first, i64 last) {
    T eps = (T)call.eps[b], step = (T)call.step[b];
    Bounds<T> bounds{(T)call.low, (T)call.high};
    Run<S> adv, grad, origin;
    MaskRun mask;
    for_runs(call.shape, first, last, longest, [&](const Index& i, i64 n, i64) {
      T* a = adv.open(call.adv, b, i, n);
      linf_run<S>(a, grad.open(call.grad, b, i, n), origin.open(call.origin, b, i, n), mask.open(call.mask, b, i, n), n,
                  eps, step, bounds);
      adv.close(a, call.adv, b, i, n);
    });
  });
}

template <class S>
void step_l2_all(const Call& call) {
  using T = typename Storage<S>::real;
  Segments segments(call.shape.count());
  i64 longest = longest_run<S>(call.adv, call.grad, call.origin, call.mask);
  for_samples<StepSums>(call.shape, call.threads, [&](Team& team, Partials<StepSums>& partials, i64 b) {
    Run<S> adv, grad, origin;
    MaskRun mask;
    Scales scales = step_scales<S>(call, team, b);
    auto sum = [&](bool exact) {
      return team_sum(team, partials, segments, [&](int s) {
        StepSums total{0, 0, 0};
        for_runs(call.shape, segments.first(s), segments.last(s), longest, [&](const Index& i, i64 n, i64) {
          const T *a = adv.open(call.adv, b, i, n), *g = grad.open(call.grad, b, i, n);
          const T* o = origin.open(call.origin, b, i, n);
          const u8* m = mask.open(call.mask, b, i, n);
          if constexpr (sizeof(T) == sizeof(float)) {
            if (!exact) return accumulate(total, sum_run_fast(a, g, o, n));
          }
          accumulate(total, sum_run(a, g, o, m, n, scales));
        });
        return total;
      });
    };
    // A mask, float64, or a ball so small that its square leaves float32: in double from the start.
    bool exact = call.mask.data || sizeof(T) != sizeof(float) || call.eps[b] < SMALLEST_RADIUS;
    StepSums sums = sum(exact);
    if (!exact && !(in_range(sums.gg, segments.count) && sums.dd < 1e300)) sums = sum(exact = true);
    StepL2<T> l2 = step_l2(sums, call.eps[b], call.step[b], scales, T(0), exact ? 1.0 : SHRINK_MARGIN);
    Bounds<T> bounds{(T)call.low, (T)call.high};
    // Backwards: what the reduction read last is still in the cache.
    for (int s = team.last(segments.number) - 1; s >= team.first(segments.number); --s)
      for_runs(call.shape, segments.first(s), segments.last(s), longest, [&](const Index& i, i64 n, i64) {
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
