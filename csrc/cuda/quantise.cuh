// adv = the nearest point of the integer grid within ball and bounds. The public op lets float32 and float64 in alone;
// the other two types are here because every table has them.
#pragma once
#include "common.cuh"
#include "fastattack/quantise.h"

namespace fastattack {
inline namespace FA_ISA {

template <class S>
struct Quantise {
  Samples<S, 2> at;  // adv, origin
  PerSample eps;
  double low, high, levels;
  i64 linf;  // else no pixel moves away from origin
};

template <class S>
FA_KERNEL quantise_kernel(const Quantise<S> p) {
  using T = typename Storage<S>::real;
  T eps = (T)p.eps.at(p.at.sample()), levels = (T)p.levels;
  Bounds<T> bounds = {(T)p.low, (T)p.high};
  bool linf = p.linf != 0;
  map(p.at, [&](const T(&x)[2], bool on) {
    T y = quantise(x[0], x[1], quantise_reach(x[0], x[1], eps, linf), bounds, levels);
    return on ? y : x[1];
  });
}

}  // namespace FA_ISA
}  // namespace fastattack
