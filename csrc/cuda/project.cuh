// adv = the point of the ball nearest to adv. l2: project_sums, then project_l2.
#pragma once
#include "common.cuh"
#include "fastattack/project.h"

namespace fastattack {
inline namespace FA_ISA {

template <class S>
struct Project {
  Samples<S, 2> at;  // adv, origin
  PerSample eps;
  double low, high;
  PerSample scale;
  double* partials;  // [B, tiles]
};

template <class S>
FA_KERNEL project_linf_kernel(const Project<S> p) {
  using T = typename Storage<S>::real;
  T eps = (T)p.eps.at(p.at.sample());
  Bounds<T> bounds = {(T)p.low, (T)p.high};
  map(p.at, [&](const T(&x)[2], bool on) {
    T y = project_linf<S>(x[0], x[1], eps, bounds);
    return on ? y : x[1];
  });
}

template <class S>
FA_KERNEL project_sums_kernel(const Project<S> p) {
  using T = typename Storage<S>::real;
  double scale = p.scale.at(p.at.sample());
  sum_tile(p.at, p.partials, [&](const T(&x)[2]) { return delta_square(x[0], x[1], scale); });
}

template <class S>
FA_KERNEL project_l2_kernel(const Project<S> p) {
  using T = typename Storage<S>::real;
  i64 sample = p.at.sample();
  double square = sum_partials(p.partials, sample, p.at.tiles);
  T shrink = once([&] { return (T)shrink_to(root(square) / p.scale.at(sample), p.eps.at(sample)); });
  Bounds<T> bounds = {(T)p.low, (T)p.high};
  map(p.at, [&](const T(&x)[2], bool on) {
    T y = apply_l2<S>(x[0], T(0), x[1], shrink, bounds);
    return on ? y : x[1];
  });
}

}  // namespace FA_ISA
}  // namespace fastattack
