// adv = the point of the l1 ball and the bounds nearest to adv.
//
// sums, L1_ROUNDS rounds, apply; the host never waits. A round reads what the round before left and writes the other
// half of the double buffers, so blocks of one launch never meet. A finished sample costs no reading of images.
#pragma once
#include "common.cuh"
#include "fastattack/l1_project.h"

namespace fastattack {
inline namespace FA_ISA {

template <class S>
struct L1Project {
  Samples<S, 2> at;  // adv, origin
  PerSample eps;
  double low, high;
  L1State* states;   // [2, B]
  L1Sums* partials;  // [2, B, tiles]; the sums at lambda = 0 are left in the second half
  i64 round;

  FA_DEVICE L1State* states_of(i64 r) const { return states + (r & 1) * at.batch; }
  FA_DEVICE L1Sums* partials_of(i64 r) const { return partials + (r & 1) * at.batch * at.tiles; }
  FA_DEVICE Bounds<double> box() const { return {low, high}; }
};

// `largest` is no sum.
FA_DEVICE void add(L1Sums& to, const L1Sums& from) {
  to.sum += from.sum;
  to.free += from.free;
  to.least += from.least;
  to.largest = from.largest > to.largest ? from.largest : to.largest;
}

template <class S>
FA_KERNEL l1_project_sums_kernel(const L1Project<S> p) {
  using T = typename Storage<S>::real;
  sum_tile(p.at, p.partials_of(1), [&](const T(&x)[2]) { return l1_terms(x[0], x[1], 0.0, p.box()); });
}

// The state after the evaluation that round `r - 1` left behind.
template <class S>
FA_DEVICE L1State l1_state(const L1Project<S>& p, i64 r) {
  i64 sample = p.at.sample();
  if (r == 0) {
    L1Sums sums = sum_partials(p.partials_of(1), sample, p.at.tiles);
    return once([&] { return l1_begin(sums, p.eps.at(sample)); });
  }
  const L1State& before = p.states_of(r - 1)[sample];
  if (before.done != 0.0) return before;
  L1Sums sums = sum_partials(p.partials_of(r - 1), sample, p.at.tiles);
  return once([&] {
    L1State state = before;
    l1_advance(state, sums);
    return state;
  });
}

template <class S>
FA_KERNEL l1_project_round_kernel(const L1Project<S> p) {
  using T = typename Storage<S>::real;
  L1State state = l1_state(p, p.round);
  if (p.at.first_thread()) p.states_of(p.round)[p.at.sample()] = state;
  if (state.done != 0.0) return;
  sum_tile(p.at, p.partials_of(p.round), [&](const T(&x)[2]) {
    L1Sums terms = l1_terms(x[0], x[1], state.lambda, p.box());
    return L1Sums{terms.sum, terms.free, 0.0, 0.0};
  });
}

template <class S>
FA_KERNEL l1_project_kernel(const L1Project<S> p) {
  using T = typename Storage<S>::real;
  L1State state = l1_state(p, p.round);
  double lambda = l1_lambda(state);
  Bounds<T> bounds = {(T)p.low, (T)p.high};
  map(p.at, [&](const T(&x)[2], bool on) {
    T y = l1_apply<S>(x[0], x[1], lambda, bounds);
    return on ? y : x[1];
  });
}

}  // namespace FA_ISA
}  // namespace fastattack
