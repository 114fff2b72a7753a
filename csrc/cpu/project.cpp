#include <fastattack/project.h>

#include "blocks.h"
#include "isa.h"
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
#pragma omp simd
    for (i64 i = 0; i < n; ++i) adv[i] = project_linf<S>(adv[i], origin[i], eps, bounds);
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
  for_elements(call.shape, call.threads, [&](i64 b, i64 first, i64 last) {
    Run<S> adv, origin;
    MaskRun mask;
    for_runs(call.shape, first, last, [&](const Index& i, i64 n, i64) {
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
  if (!mask) {
#pragma omp simd reduction(+ : sum)
    for (i64 i = 0; i < n; ++i) sum += delta_square(adv[i], origin[i], scale);
    return sum;
  }
  for (i64 i = 0; i < n; ++i) sum += mask[i] ? delta_square(adv[i], origin[i], scale) : 0.0;
  return sum;
}

template <class S, class T>
void apply_run(T* __restrict adv, const T* __restrict origin, const u8* mask, i64 n, T shrink, Bounds<T> bounds) {
#pragma omp simd
  for (i64 i = 0; i < n; ++i) {
    T x = apply_l2<S>(adv[i], T(0), origin[i], shrink, bounds);
    adv[i] = !mask || mask[i] ? x : origin[i];
  }
}

template <class S>
void project_l2_all(const Call& call) {
  using T = typename Storage<S>::real;
  Segments segments(call.shape.count());
  for_samples<Square>(call.shape, call.threads, [&](Team& team, Partials<Square>& partials, i64 b) {
    Run<S> adv, origin;
    MaskRun mask;
    double scale = step_scales<S>(call, team, b).delta;
    Square square = team_sum(team, partials, segments, [&](int s) {
      Square total{0};
      for_runs(call.shape, segments.first(s), segments.last(s), [&](const Index& i, i64 n, i64) {
        total.sum += square_run(adv.open(call.adv, b, i, n), origin.open(call.origin, b, i, n),
                                mask.open(call.mask, b, i, n), n, scale);
      });
      return total;
    });
    T shrink = (T)shrink_to(root(square.sum) / scale, call.eps[b]);
    for (int s = team.last(segments.number) - 1; s >= team.first(segments.number); --s)
      for_runs(call.shape, segments.first(s), segments.last(s), [&](const Index& i, i64 n, i64) {
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
