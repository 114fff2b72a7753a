#include <fastattack/apgd_step.h>

#include "blocks.h"
#include "isa.h"
#include "lanes.h"
#include "scale.h"

namespace fastattack {
inline namespace FA_ISA {

FA_HD void accumulate(MomentumSums& into, const MomentumSums& from) {
  into.dd += from.dd, into.dp += from.dp, into.dg += from.dg;
  into.pp += from.pp, into.pg += from.pg, into.gg += from.gg;
}

namespace {

// One run of each tensor.
template <class S>
struct Pixels {
  using T = typename Storage<S>::real;
  Run<S> adv, previous, grad, origin;
  MaskRun mask;
  struct Opened {
    T *adv, *previous;
    const T *grad, *origin;
    const u8* mask;
  };
  Opened open(const ApgdCall& call, i64 b, const Index& i, i64 n) {
    const Call& common = call.common;
    return Opened{adv.open(common.adv, b, i, n), previous.open(call.previous, b, i, n), grad.open(common.grad, b, i, n),
                  origin.open(common.origin, b, i, n), mask.open(common.mask, b, i, n)};
  }
  void close(const Opened& at, const ApgdCall& call, i64 b, const Index& i, i64 n) {
    adv.close(at.adv, call.common.adv, b, i, n);
    previous.close(at.previous, call.previous, b, i, n);
  }
};

template <class S>
i64 longest(const ApgdCall& call) {
  const Call& common = call.common;
  return longest_run<S>(common.adv, call.previous, common.grad, common.origin, common.mask);
}

// adv = step(adv, previous, grad, origin), previous = the old adv.
template <class T, class Step>
FA_HD void write_run(T* __restrict adv, T* __restrict previous, const T* __restrict grad, const T* __restrict origin,
                     const u8* mask, i64 n, Step step) {
  if (!mask) {
    for (i64 at = 0; at < n; at += FETCH) {
      fetch_ahead(adv + at, n - at), fetch_ahead(previous + at, n - at), fetch_ahead(grad + at, n - at),
          fetch_ahead(origin + at, n - at);
      i64 end = at + FETCH < n ? at + FETCH : n;
#pragma omp simd
      for (i64 i = at; i < end; ++i) {
        T old = adv[i];
        adv[i] = step(old, previous[i], grad[i], origin[i]);
        previous[i] = old;
      }
    }
    return;
  }
#pragma omp simd
  for (i64 i = 0; i < n; ++i) {
    T old = adv[i], x = step(old, previous[i], grad[i], origin[i]);
    adv[i] = mask[i] ? x : origin[i];
    previous[i] = mask[i] ? old : origin[i];
  }
}

template <class S>
void step_linf(const ApgdCall& call) {
  using T = typename Storage<S>::real;
  const Call& common = call.common;
  for_elements(common.shape, common.threads, [&](i64 b, i64 first, i64 last) {
    T eps = (T)common.eps[b], size = (T)common.step[b], momentum = (T)call.momentum[b];
    Bounds<T> bounds{(T)common.low, (T)common.high};
    Pixels<S> pixels;
    for_runs(common.shape, first, last, longest<S>(call), [&](const Index& i, i64 n, i64) {
      auto at = pixels.open(call, b, i, n);
      write_run(at.adv, at.previous, at.grad, at.origin, at.mask, n, [=](T adv, T previous, T grad, T origin) {
        return apgd_step_linf<S>(adv, previous, grad, origin, eps, size, momentum, bounds);
      });
      pixels.close(at, call, b, i, n);
    });
  });
}

// Without a mask the loop must not ask for one: the compiler gives up on it.
template <bool MASKED, class T>
MomentumSums sum_run(const T* adv, const T* previous, const T* grad, const T* origin, const u8* mask, i64 n,
                     double rest, Scales scales) {
  double dd = 0, dp = 0, dg = 0, pp = 0, pg = 0, gg = 0;
#pragma omp simd reduction(+ : dd, dp, dg, pp, pg, gg)
  for (i64 i = 0; i < n; ++i) {
    MomentumSums t = momentum_terms(adv[i], previous[i], grad[i], origin[i], rest, scales);
    bool moves = MASKED ? mask[i] != 0 : true;
    dd += moves ? t.dd : 0.0, dp += moves ? t.dp : 0.0, dg += moves ? t.dg : 0.0;
    pp += moves ? t.pp : 0.0, pg += moves ? t.pg : 0.0, gg += moves ? t.gg : 0.0;
  }
  return MomentumSums{dd, dp, dg, pp, pg, gg};
}

// |w|^2 from the pixels, scaled; in `dd` of the sums.
template <class T>
MomentumSums measure_run(const T* adv, const T* previous, const T* grad, const T* origin, const u8* mask, i64 n,
                         const MomentumL2& l2, double scale, Bounds<T> bounds) {
  double square = 0;
#pragma omp simd reduction(+ : square)
  for (i64 i = 0; i < n; ++i) {
    double w = momentum_delta(adv[i], previous[i], grad[i], origin[i], l2, bounds) * scale;
    bool moves = mask ? mask[i] != 0 : true;
    square += moves ? w * w : 0.0;
  }
  return MomentumSums{square, 0, 0, 0, 0, 0};
}

// The scale of delta must hold for previous as well.
template <class S>
Scales momentum_scales(const ApgdCall& call, const Team& team, i64 b) {
  Scales scales = step_scales<S>(call.common, team, b);
  if constexpr (sizeof(S) == sizeof(double)) {
    const Call& common = call.common;
    if (call.momentum[b] != 1.0) {
      double other = scale_for(largest_in<S>(common.shape, call.previous, common.mask, b, 0, common.shape.count()));
      scales.delta = other < scales.delta ? other : scales.delta;
    }
    team.barrier();  // nobody writes previous before all have looked
  }
  return scales;
}

template <class S>
void step_l2_all(const ApgdCall& call) {
  using T = typename Storage<S>::real;
  const Call& common = call.common;
  Segments segments(common.shape.count());
  Bounds<T> bounds{(T)common.low, (T)common.high};
  bool bounded = common.low > -__builtin_inf() || common.high < __builtin_inf();
  for_samples<MomentumSums>(common.shape, common.threads, [&](Team& team, Partials<MomentumSums>& partials, i64 b) {
    Pixels<S> pixels;
    Scales scales = momentum_scales<S>(call, team, b);
    auto for_segment = [&](int s, auto body) {
      for_runs(common.shape, segments.first(s), segments.last(s), longest<S>(call),
               [&](const Index& i, i64 n, i64) { body(pixels.open(call, b, i, n), i, n); });
    };
    auto total_of = [&](auto sums_of) {
      return team_sum(team, partials, segments, [&](int s) {
        MomentumSums total{0, 0, 0, 0, 0, 0};
        for_segment(s, [&](const auto& at, const Index&, i64 n) { accumulate(total, sums_of(at, n)); });
        return total;
      });
    };
    double eps = common.eps[b], rest = 1.0 - call.momentum[b];
    MomentumSums sums = total_of([&](const auto& at, i64 n) {
      auto sum = at.mask ? sum_run<true, T> : sum_run<false, T>;
      return sum(at.adv, at.previous, at.grad, at.origin, at.mask, n, rest, scales);
    });
    MomentumL2 l2 = momentum_l2(sums, eps, common.step[b], call.momentum[b], scales, bounded);
    if (l2.measure) {
      MomentumSums measured = total_of([&](const auto& at, i64 n) {
        return measure_run(at.adv, at.previous, at.grad, at.origin, at.mask, n, l2, scales.delta, bounds);
      });
      l2.norm = root(measured.dd) / scales.delta;
    }
    double shrink = shrink_to(l2.norm, eps);
    auto step = [=](T adv, T previous, T grad, T origin) {
      return apgd_step_l2<S>(adv, previous, grad, origin, l2, shrink, bounds);
    };
    // Backwards: what the reduction read last is still in the cache.
    for (int s = team.last(segments.number) - 1; s >= team.first(segments.number); --s)
      for_segment(s, [&](const auto& at, const Index& i, i64 n) {
        write_run(at.adv, at.previous, at.grad, at.origin, at.mask, n, step);
        pixels.close(at, call, b, i, n);
      });
  });
}

}  // namespace

void apgd_step(const ApgdCall& call) {
  with_storage(call.common.dtype, [&](auto s) {
    using S = decltype(s);
    return call.common.norm == Norm::linf ? step_linf<S>(call) : step_l2_all<S>(call);
  });
}

}  // namespace FA_ISA
}  // namespace fastattack
