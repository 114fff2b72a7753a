#include <fastattack/momentum_step.h>

#include "isa.h"
#include "scale.h"
#include "step_l2.h"

namespace fastattack {
inline namespace FA_ISA {
namespace {

struct MomentumSums {
  double magnitudes;
  StepSums step;
};

FA_HD void accumulate(MomentumSums& into, const MomentumSums& from) {
  into.magnitudes += from.magnitudes;
  accumulate(into.step, from.step);
}

template <class T>
double magnitude_run(const T* grad, const u8* mask, i64 n, double scale) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (i64 i = 0; i < n; ++i) sum += magnitude_term(mask ? (mask[i] ? grad[i] : T(0)) : grad[i], scale);
  return sum;
}

double magnitude_run_fast(const float* grad, i64 n) {
  HalfLanes even{}, odd{};
  i64 i = 0;
  for (; i + 2 * LANES <= n; i += 2 * LANES) {
    add_lanes(even, lane_magnitude(load_lanes(grad + i)));
    add_lanes(odd, lane_magnitude(load_lanes(grad + i + LANES)));
  }
  return across(even + odd) + magnitude_run(grad + i, nullptr, n - i, 1.0);
}

template <class S, class T>
void linf_run(T* __restrict adv, T* __restrict momentum, const T* __restrict grad, const T* __restrict origin,
              const u8* mask, i64 n, T decay, Unit<T> unit, T eps, T step, Bounds<T> bounds) {
  if (!mask) {
    for (i64 at = 0; at < n; at += FETCH) {
      fetch_ahead(adv + at, n - at), fetch_ahead(momentum + at, n - at), fetch_ahead(grad + at, n - at),
          fetch_ahead(origin + at, n - at);
      i64 end = at + FETCH < n ? at + FETCH : n;
#pragma omp simd
      for (i64 i = at; i < end; ++i) {
        T m = next_momentum(momentum[i], grad[i], decay, unit);
        adv[i] = pgd_step_linf<S>(adv[i], m, origin[i], eps, step, bounds);
        momentum[i] = stored_momentum<S>(m);
      }
    }
    return;
  }
#pragma omp simd
  for (i64 i = 0; i < n; ++i) {
    T m = next_momentum(momentum[i], mask[i] ? grad[i] : T(0), decay, unit);
    T x = pgd_step_linf<S>(adv[i], m, origin[i], eps, step, bounds);
    adv[i] = mask[i] ? x : origin[i];
    momentum[i] = stored_momentum<S>(m);
  }
}

template <class S, class T>
void momentum_run(T* __restrict momentum, const T* __restrict grad, const u8* mask, i64 n, T decay, Unit<T> unit) {
#pragma omp simd
  for (i64 i = 0; i < n; ++i) {
    T g = mask ? (mask[i] ? grad[i] : T(0)) : grad[i];
    momentum[i] = stored_momentum<S>(next_momentum(momentum[i], g, decay, unit));
  }
}

template <class S>
struct Buffers {
  Run<S> adv, momentum, grad, origin;
  MaskRun mask;
};

// One sample in the hands of one team.
template <class S>
struct Sample {
  using T = typename Storage<S>::real;
  const MomentumCall& call;
  const Call& common;
  Team& team;
  Partials<MomentumSums>& partials;
  const Segments& segments;
  i64 b;
  Buffers<S>& at;

  // term(index, n, mask) over the runs of the sample, added up.
  template <class Term>
  MomentumSums sum(i64 longest, Term term) {
    return team_sum(team, partials, segments, [&](int s) {
      MomentumSums total{};
      for_runs(common.shape, segments.first(s), segments.last(s), longest,
               [&](const Index& i, i64 n, i64) { accumulate(total, term(i, n, at.mask.open(common.mask, b, i, n))); });
      return total;
    });
  }

  // Backwards: what the pass before read last is still in the cache.
  template <class Apply>
  void apply(i64 longest, Apply apply) {
    for (int s = team.last(segments.number) - 1; s >= team.first(segments.number); --s)
      for_runs(common.shape, segments.first(s), segments.last(s), longest,
               [&](const Index& i, i64 n, i64) { apply(i, n, at.mask.open(common.mask, b, i, n)); });
  }

  double magnitudes(double scale) {
    i64 longest = longest_run<S>(common.grad, common.mask);
    return sum(longest,
               [&](const Index& i, i64 n, const u8* m) {
                 const T* g = at.grad.open(common.grad, b, i, n);
                 if constexpr (sizeof(T) == sizeof(float)) {
                   if (!m) return MomentumSums{magnitude_run_fast(g, n), {}};
                 }
                 return MomentumSums{magnitude_run(g, m, n, scale), {}};
               })
        .magnitudes;
  }

  void linf(Unit<T> unit) {
    i64 longest = longest_run<S>(common.adv, call.momentum, common.grad, common.origin, common.mask);
    T eps = (T)common.eps[b], step = (T)common.step[b], decay = (T)call.decay[b];
    Bounds<T> bounds{(T)common.low, (T)common.high};
    apply(longest, [&](const Index& i, i64 n, const u8* m) {
      T *a = at.adv.open(common.adv, b, i, n), *v = at.momentum.open(call.momentum, b, i, n);
      linf_run<S>(a, v, at.grad.open(common.grad, b, i, n), at.origin.open(common.origin, b, i, n), m, n, decay, unit,
                  eps, step, bounds);
      at.adv.close(a, common.adv, b, i, n), at.momentum.close(v, call.momentum, b, i, n);
    });
  }

  // Of adv - origin and the momentum, in runs short enough that what `prepare` wrote is still in the nearest cache.
  template <class Prepare>
  StepSums step_sums(bool exact, Scales scales, Prepare prepare) {
    return sum(BLOCK,
               [&](const Index& i, i64 n, const u8* m) {
                 const T* v = prepare(i, n, m);
                 const T *a = at.adv.open(common.adv, b, i, n), *o = at.origin.open(common.origin, b, i, n);
                 if constexpr (sizeof(T) == sizeof(float)) {
                   if (!exact) return MomentumSums{0, sum_run_fast(a, v, o, n)};
                 }
                 return MomentumSums{0, sum_run(a, v, o, m, n, scales)};
               })
        .step;
  }

  void l2(Unit<T> unit, Scales scales) {
    T decay = (T)call.decay[b];
    bool exact = common.mask.data || sizeof(T) != sizeof(float) || common.eps[b] < SMALLEST_RADIUS;
    StepSums sums = step_sums(exact, scales, [&](const Index& i, i64 n, const u8* m) {
      T* v = at.momentum.open(call.momentum, b, i, n);
      momentum_run<S>(v, at.grad.open(common.grad, b, i, n), m, n, decay, unit);
      at.momentum.close(v, call.momentum, b, i, n);
      return v;
    });
    if (!exact && !(in_range(sums.gg, segments.count) && sums.dd < 1e300)) {
      exact = true;
      sums = step_sums(exact, scales,
                       [&](const Index& i, i64 n, const u8*) { return at.momentum.open(call.momentum, b, i, n); });
    }
    StepL2<T> l2 = step_l2(sums, common.eps[b], common.step[b], scales, T(0), exact ? 1.0 : SHRINK_MARGIN);
    Bounds<T> bounds{(T)common.low, (T)common.high};
    i64 longest = longest_run<S>(common.adv, call.momentum, common.origin, common.mask);
    apply(longest, [&](const Index& i, i64 n, const u8* m) {
      T* a = at.adv.open(common.adv, b, i, n);
      apply_run<S>(a, at.momentum.open(call.momentum, b, i, n), at.origin.open(common.origin, b, i, n), m, n, l2,
                   bounds);
      at.adv.close(a, common.adv, b, i, n);
    });
  }

  // The largest entry that the momentum can have after this step; float64 alone asks.
  double largest_momentum(double magnitudes, double largest_before) const {
    return call.decay[b] * largest_before + (magnitudes > 0 ? (double)segments.count : 0.0);
  }

  void step() {
    Scales scales = step_scales<S>(common, team, b);
    double before = 0;
    if constexpr (sizeof(S) == sizeof(double))
      before = largest_in<S>(common.shape, call.momentum, common.mask, b, 0, segments.count);
    double sum = magnitudes(scales.grad);
    Unit<T> unit = unit_of(sum, segments.count, scales.grad, T(0));
    if (common.norm == Norm::linf) return linf(unit);
    if constexpr (sizeof(S) == sizeof(double)) scales.grad = scale_for(largest_momentum(sum, before));
    l2(unit, scales);
  }
};

}  // namespace

void momentum_step(const MomentumCall& call) {
  const Call& common = call.common;
  Segments segments(common.shape.count());
  with_storage(common.dtype, [&](auto s) {
    using S = decltype(s);
    for_samples<MomentumSums>(common.shape, common.threads, [&](Team& team, Partials<MomentumSums>& partials, i64 b) {
      Buffers<S> buffers;
      Sample<S>{call, common, team, partials, segments, b, buffers}.step();
    });
  });
}

}  // namespace FA_ISA
}  // namespace fastattack
