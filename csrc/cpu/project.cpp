#include <fastattack/project.h>

#include "blocks.h"
#include "isa.h"
#include "lanes.h"
#include "scale.h"

namespace fastattack {
inline namespace FA_ISA {
namespace {

struct Square {
  double sum;
};

FA_HD void accumulate(Square& into, const Square& from) { into.sum += from.sum; }

template <class S, class T>
void linf_run(T* __restrict adv, const T* __restrict origin, const u8* mask, i64 n, T eps, Bounds<T> bounds) {
  if (!mask) {
    for (i64 at = 0; at < n; at += FETCH) {
      fetch_ahead(adv + at, n - at), fetch_ahead(origin + at, n - at);
      i64 end = at + FETCH < n ? at + FETCH : n;
#pragma omp simd
      for (i64 i = at; i < end; ++i) adv[i] = project_linf<S>(adv[i], origin[i], eps, bounds);
    }
    return;
  }
#pragma omp simd
  for (i64 i = 0; i < n; ++i) {
    T x = project_linf<S>(adv[i], origin[i], eps, bounds);
    adv[i] = mask[i] ? x : origin[i];
  }
}

template <class S>
void project_linf_all(const Call& call) {
  using T = typename Storage<S>::real;
  i64 longest = longest_run<S>(call.adv, call.origin, call.mask);
  for_elements(call.shape, call.threads, [&](i64 b, i64 first, i64 last) {
    Run<S> adv, origin;
    MaskRun mask;
    for_runs(call.shape, first, last, longest, [&](const Index& i, i64 n, i64) {
      T* a = adv.open(call.adv, b, i, n);
      linf_run<S>(a, origin.open(call.origin, b, i, n), mask.open(call.mask, b, i, n), n, (T)call.eps[b],
                  Bounds<T>{(T)call.low, (T)call.high});
      adv.close(a, call.adv, b, i, n);
    });
  });
}

template <class T>
double square_run(const T* adv, const T* origin, const u8* mask, i64 n, double scale) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (i64 i = 0; i < n; ++i) {
    bool moves = mask ? mask[i] != 0 : true;
    sum += delta_square(moves ? adv[i] : origin[i], origin[i], scale);
  }
  return sum;
}

double square_run_fast(const float* adv, const float* origin, i64 n) {
  HalfLanes total{};
  i64 rest = for_groups(n, [&](i64 i) {
    Lanes sum{};
    for (i64 k = i; k < i + HOLD_NORM * LANES; k += LANES) {
      Lanes d = load_lanes(adv + k) - load_lanes(origin + k);
      sum += d * d;
    }
    add_lanes(total, sum);
  });
  return across(total) + square_run(adv + rest, origin + rest, nullptr, n - rest, 1.0);
}

template <class S, class T>
void apply_run(T* __restrict adv, const T* __restrict origin, const u8* mask, i64 n, T shrink, Bounds<T> bounds) {
  if (!mask) {
    for (i64 at = 0; at < n; at += FETCH) {
      fetch_ahead(adv + at, n - at), fetch_ahead(origin + at, n - at);
      i64 end = at + FETCH < n ? at + FETCH : n;
#pragma omp simd
      for (i64 i = at; i < end; ++i) adv[i] = apply_l2<S>(adv[i], T(0), origin[i], shrink, bounds);
    }
    return;
  }
#pragma omp simd
  for (i64 i = 0; i < n; ++i) {
    T x = apply_l2<S>(adv[i], T(0), origin[i], shrink, bounds);
    adv[i] = mask[i] ? x : origin[i];
  }
}

template <class S>
void project_l2_all(const Call& call) {
  using T = typename Storage<S>::real;
  Segments segments(call.shape.count());
  i64 longest = longest_run<S>(call.adv, call.origin, call.mask);
  for_samples<Square>(call.shape, call.threads, [&](Team& team, Partials<Square>& partials, i64 b) {
    Run<S> adv, origin;
    MaskRun mask;
    double scale = step_scales<S>(call, team, b).delta;
    auto sum = [&](bool exact) {
      return team_sum(team, partials, segments, [&](int s) {
        Square total{0};
        for_runs(call.shape, segments.first(s), segments.last(s), longest, [&](const Index& i, i64 n, i64) {
          const T *a = adv.open(call.adv, b, i, n), *o = origin.open(call.origin, b, i, n);
          const u8* m = mask.open(call.mask, b, i, n);
          if constexpr (sizeof(T) == sizeof(float)) {
            if (!exact) {
              total.sum += square_run_fast(a, o, n);
              return;
            }
          }
          total.sum += square_run(a, o, m, n, scale);
        });
        return total;
      });
    };
    bool exact = call.mask.data || sizeof(T) != sizeof(float) || call.eps[b] < SMALLEST_RADIUS;
    Square square = sum(exact);
    // Too large for float32, or too near the radius to say on which side of it: a point inside must not move by a bit.
    double radius = call.eps[b], near = 1e-6 * radius;
    if (!exact && !(square.sum < 1e300 && magnitude(root(square.sum) - radius) > near)) square = sum(true);
    T shrink = (T)shrink_to(root(square.sum) / scale, call.eps[b]);
    for (int s = team.last(segments.number) - 1; s >= team.first(segments.number); --s)
      for_runs(call.shape, segments.first(s), segments.last(s), longest, [&](const Index& i, i64 n, i64) {
        T* a = adv.open(call.adv, b, i, n);
        apply_run<S>(a, origin.open(call.origin, b, i, n), mask.open(call.mask, b, i, n), n, shrink,
                     Bounds<T>{(T)call.low, (T)call.high});
        adv.close(a, call.adv, b, i, n);
      });
  });
}

}  // namespace

void project(const Call& call) {
  with_storage(call.dtype, [&](auto s) {
    using S = decltype(s);
    return call.norm == Norm::linf ? project_linf_all<S>(call) : project_l2_all<S>(call);
  });
}

}  // namespace FA_ISA
}  // namespace fastattack
