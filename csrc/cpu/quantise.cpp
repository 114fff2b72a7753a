#include <fastattack/quantise.h>

#include "blocks.h"
#include "isa.h"
#include "lanes.h"

namespace fastattack {
inline namespace FA_ISA {
namespace {

template <bool LINF, class T>
void quantise_run(T* __restrict adv, const T* __restrict origin, const u8* mask, i64 n, T eps, Bounds<T> bounds,
                  T levels) {
  for (i64 at = 0; at < n; at += FETCH) {
    fetch_ahead(adv + at, n - at), fetch_ahead(origin + at, n - at);
    i64 end = at + FETCH < n ? at + FETCH : n;
    if (!mask) {
#pragma omp simd
      for (i64 i = at; i < end; ++i)
        adv[i] = quantise(adv[i], origin[i], quantise_reach(adv[i], origin[i], eps, LINF), bounds, levels);
      continue;
    }
#pragma omp simd
    for (i64 i = at; i < end; ++i) {
      T x = quantise(adv[i], origin[i], quantise_reach(adv[i], origin[i], eps, LINF), bounds, levels);
      adv[i] = mask[i] ? x : origin[i];
    }
  }
}

template <class T>
void quantise_all(const QuantiseCall& call) {
  const Call& c = call.common;
  i64 longest = longest_run<T>(c.adv, c.origin, c.mask);
  for_elements(c.shape, c.threads, [&](i64 b, i64 first, i64 last) {
    Run<T> adv, origin;
    MaskRun mask;
    Bounds<T> bounds{(T)c.low, (T)c.high};
    for_runs(c.shape, first, last, longest, [&](const Index& i, i64 n, i64) {
      T* a = adv.open(c.adv, b, i, n);
      const T* o = origin.open(c.origin, b, i, n);
      const u8* m = mask.open(c.mask, b, i, n);
      if (c.norm == Norm::linf)
        quantise_run<true>(a, o, m, n, (T)c.eps[b], bounds, (T)call.levels);
      else
        quantise_run<false>(a, o, m, n, T(0), bounds, (T)call.levels);
      adv.close(a, c.adv, b, i, n);
    });
  });
}

}  // namespace

// float32 and float64 alone: no other type holds the grid.
void quantise(const QuantiseCall& call) {
  return call.common.dtype == Dtype::f64 ? quantise_all<double>(call) : quantise_all<float>(call);
}

}  // namespace FA_ISA
}  // namespace fastattack
