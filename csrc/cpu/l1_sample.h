// The projection of one sample onto the l1 ball: what l1_project and l1_step share.
#pragma once
#include <fastattack/l1_project.h>

#include "blocks.h"

namespace fastattack {
inline namespace FA_ISA {

FA_HD void accumulate(L1Sums& into, const L1Sums& from) {
  into.sum += from.sum;
  into.free += from.free;
  into.least += from.least;
  into.largest = from.largest > into.largest ? from.largest : into.largest;
}

// A loop must not ask whether there is a mask: the compiler gives up on it.
template <bool MASKED, class T>
L1Sums l1_first_run(const T* adv, const T* origin, const u8* mask, i64 n, Bounds<double> bounds) {
  double sum = 0, free = 0, least = 0, largest = 0;
#pragma omp simd reduction(+ : sum, free, least) reduction(max : largest)
  for (i64 i = 0; i < n; ++i) {
    bool on = MASKED ? mask[i] != 0 : true;
    L1Sums t = l1_terms(adv[i], origin[i], 0.0, bounds);
    double size = on ? t.largest : 0.0;
    sum += on ? t.sum : 0.0, free += on ? t.free : 0.0, least += on ? t.least : 0.0;
    largest = size > largest ? size : largest;
  }
  return L1Sums{sum, free, least, largest};
}

template <bool MASKED, class T>
L1Sums l1_run(const T* adv, const T* origin, const u8* mask, i64 n, double lambda, Bounds<double> bounds) {
  double sum = 0, free = 0;
#pragma omp simd reduction(+ : sum, free)
  for (i64 i = 0; i < n; ++i) {
    bool on = MASKED ? mask[i] != 0 : true;
    L1Sums t = l1_terms(adv[i], origin[i], lambda, bounds);
    sum += on ? t.sum : 0.0, free += on ? t.free : 0.0;
  }
  return L1Sums{sum, free, 0.0, 0.0};
}

template <class S, bool MASKED, class T>
void l1_apply_run(T* __restrict adv, const T* __restrict origin, const u8* mask, i64 n, double lambda,
                  Bounds<T> bounds) {
#pragma omp simd
  for (i64 i = 0; i < n; ++i) {
    T x = l1_apply<S>(adv[i], origin[i], lambda, bounds);
    adv[i] = !MASKED || mask[i] ? x : origin[i];
  }
}

template <class S>
void l1_project_sample(const Call& call, Team& team, Partials<L1Sums>& partials, const Segments& segments, i64 b) {
  using T = typename Storage<S>::real;
  Run<S> adv, origin;
  MaskRun mask;
  i64 longest = longest_run<S>(call.adv, call.origin, call.mask);
  Bounds<double> box{call.low, call.high};
  // f(adv, origin, mask, index, n) over one segment
  auto runs = [&](int s, auto f) {
    for_runs(call.shape, segments.first(s), segments.last(s), longest, [&](const Index& i, i64 n, i64) {
      f(adv.open(call.adv, b, i, n), origin.open(call.origin, b, i, n), mask.open(call.mask, b, i, n), i, n);
    });
  };
  auto sum = [&](auto terms) {
    return team_sum(team, partials, segments, [&](int s) {
      L1Sums total{0, 0, 0, 0};
      runs(s, [&](const T* a, const T* o, const u8* m, const Index&, i64 n) { accumulate(total, terms(a, o, m, n)); });
      return total;
    });
  };
  auto first_run = call.mask.data ? l1_first_run<true, T> : l1_first_run<false, T>;
  auto run = call.mask.data ? l1_run<true, T> : l1_run<false, T>;
  auto apply_run = call.mask.data ? l1_apply_run<S, true, T> : l1_apply_run<S, false, T>;
  L1State state = l1_begin(sum([&](const T* a, const T* o, const u8* m, i64 n) { return first_run(a, o, m, n, box); }),
                           call.eps[b]);
  for (int round = 0; round < L1_ROUNDS && state.done == 0.0; ++round)
    l1_advance(state,
               sum([&](const T* a, const T* o, const u8* m, i64 n) { return run(a, o, m, n, state.lambda, box); }));
  double lambda = l1_lambda(state);
  for (int s = team.first(segments.number); s < team.last(segments.number); ++s)
    runs(s, [&](T* a, const T* o, const u8* m, const Index& i, i64 n) {
      apply_run(a, o, m, n, lambda, Bounds<T>{(T)call.low, (T)call.high});
      adv.close(a, call.adv, b, i, n);
    });
}

}  // namespace FA_ISA
}  // namespace fastattack
