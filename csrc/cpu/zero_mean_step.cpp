#include <fastattack/zero_mean_step.h>

#include "blocks.h"
#include "isa.h"
#include "lanes.h"
#include "scale.h"

namespace fastattack {
inline namespace FA_ISA {

FA_HD void accumulate(ZeroMeanSums& into, const ZeroMeanSums& from) {
  into.g += from.g, into.gg += from.gg;
  into.d += from.d, into.dd += from.dd;
  into.dg += from.dg, into.size += from.size;
}

namespace {

template <class T>
ZeroMeanSums sum_run(const T* adv, const T* grad, const T* origin, i64 n, Scales scales, Pivots pivots) {
  double g = 0, gg = 0, d = 0, dd = 0, dg = 0, size = 0;
#pragma omp simd reduction(+ : g, gg, d, dd, dg, size)
  for (i64 i = 0; i < n; ++i) {
    ZeroMeanSums t = zero_mean_terms(adv[i], grad[i], origin[i], scales, pivots);
    g += t.g, gg += t.gg, d += t.d, dd += t.dd, dg += t.dg, size += t.size;
  }
  return ZeroMeanSums{g, gg, d, dd, dg, size};
}

// Without pivots: float32 lanes are for samples whose mean is small beside their spread.
ZeroMeanSums sum_run_fast(const float* adv, const float* grad, const float* origin, i64 n) {
  HalfLanes g{}, gg{}, d{}, dd{}, dg{}, size{};
  i64 rest = for_groups(n, [&](i64 i) {
    Lanes sum_g{}, sum_gg{}, sum_d{}, sum_dd{}, sum_dg{}, sum_size{};
    for (i64 k = i; k < i + HOLD_NORM * LANES; k += LANES) {
      Lanes a = load_lanes(adv + k), o = load_lanes(origin + k), x = load_lanes(grad + k), y = a - o;
      sum_g += x, sum_gg += x * x, sum_d += y, sum_dd += y * y, sum_dg += x * y;
      sum_size += lane_magnitude(a) + lane_magnitude(o);
    }
    add_lanes(g, sum_g), add_lanes(gg, sum_gg), add_lanes(d, sum_d);
    add_lanes(dd, sum_dd), add_lanes(dg, sum_dg), add_lanes(size, sum_size);
  });
  ZeroMeanSums sums = sum_run(adv + rest, grad + rest, origin + rest, n - rest, Scales{1, 1}, Pivots{0, 0});
  accumulate(sums, ZeroMeanSums{across(g), across(gg), across(d), across(dd), across(dg), across(size)});
  return sums;
}

// Whether taking off the mean leaves enough of a square that was summed in float32.
FA_HD bool centred(double sum, double square, double count) { return sum * sum <= 0.25 * count * square; }

// Whether the sums of the fast path say what they must: in range, centred, and, for the projection alone, not so near
// to the radius that a point inside could pass for one outside.
bool trusted(const ZeroMeanSums& s, double count, double eps, double step) {
  if (!(s.dd < 1e300 && centred(s.d, s.dd, count))) return false;
  if (step != 0.0) return in_range(s.gg, count) && centred(s.g, s.gg, count);
  return magnitude(root(centred_square(s.d, s.dd, count)) - eps) > 1e-6 * eps;
}

template <class S, class T>
void apply_run(T* __restrict adv, const T* __restrict grad, const T* __restrict origin, i64 n, ZeroMeanMap<T> map) {
  if (map.still) return;
  for (i64 at = 0; at < n; at += FETCH) {
    fetch_ahead(adv + at, n - at), fetch_ahead(grad + at, n - at), fetch_ahead(origin + at, n - at);
    i64 end = at + FETCH < n ? at + FETCH : n;
#pragma omp simd
    for (i64 i = at; i < end; ++i) adv[i] = zero_mean_apply<S>(adv[i], grad[i], origin[i], map);
  }
}

template <class S>
Pivots first_pivots(const Call& call, i64 b, Scales scales) {
  auto at = [&](const View& view) { return Storage<S>::load(((const S*)view.data)[b * view.stride[0]]); };
  return pivots_of(at(call.adv), at(call.grad), at(call.origin), scales);
}

template <class S>
void step_all(const Call& call) {
  using T = typename Storage<S>::real;
  Segments segments(call.shape.count());
  i64 longest = longest_run<S>(call.adv, call.grad, call.origin);
  for_samples<ZeroMeanSums>(call.shape, call.threads, [&](Team& team, Partials<ZeroMeanSums>& partials, i64 b) {
    Run<S> adv, grad, origin;
    Scales scales = step_scales<S>(call, team, b);
    Pivots pivots = first_pivots<S>(call, b, scales);  // read before the sum, after which others may write adv
    double count = (double)segments.count, eps = call.eps[b], step = call.step[b];
    auto sum = [&](bool exact) {
      return team_sum(team, partials, segments, [&](int s) {
        ZeroMeanSums total{0, 0, 0, 0, 0, 0};
        for_runs(call.shape, segments.first(s), segments.last(s), longest, [&](const Index& i, i64 n, i64) {
          const T *a = adv.open(call.adv, b, i, n), *g = grad.open(call.grad, b, i, n);
          const T* o = origin.open(call.origin, b, i, n);
          if constexpr (sizeof(T) == sizeof(float)) {
            if (!exact) return accumulate(total, sum_run_fast(a, g, o, n));
          }
          accumulate(total, sum_run(a, g, o, n, scales, pivots));
        });
        return total;
      });
    };
    bool exact = sizeof(T) != sizeof(float) || eps < SMALLEST_RADIUS;
    ZeroMeanSums sums = sum(exact);
    if (!exact && !trusted(sums, count, eps, step)) sums = sum(exact = true);
    double reach = exact || step == 0.0 ? 1.0 : SHRINK_MARGIN;
    auto map = zero_mean_map<S>(sums, exact ? pivots : Pivots{0, 0}, count, eps, step, scales, reach);
    // Backwards: what the reduction read last is still in the cache.
    for (int s = team.last(segments.number) - 1; s >= team.first(segments.number); --s)
      for_runs(call.shape, segments.first(s), segments.last(s), longest, [&](const Index& i, i64 n, i64) {
        T* a = adv.open(call.adv, b, i, n);
        apply_run<S>(a, grad.open(call.grad, b, i, n), origin.open(call.origin, b, i, n), n, map);
        adv.close(a, call.adv, b, i, n);
      });
  });
}

}  // namespace

void zero_mean_step(const Call& call) {
  with_storage(call.dtype, [&](auto s) { step_all<decltype(s)>(call); });
}

}  // namespace FA_ISA
}  // namespace fastattack
