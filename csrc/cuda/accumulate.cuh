// total = keep total + weight grad
#pragma once
#include "common.cuh"
#include "fastattack/accumulate.h"

namespace fastattack {
inline namespace FA_ISA {

template <class S>
struct Accumulate {
  Samples<S, 2> at;  // total, grad
  PerSample keep, weight;
};

template <class S>
FA_KERNEL accumulate_kernel(const Accumulate<S> p) {
  using T = typename Storage<S>::real;
  T keep = (T)p.keep.at(p.at.sample()), weight = (T)p.weight.at(p.at.sample());
  map(p.at, [&](const T(&x)[2], bool) { return accumulated<S>(x[0], x[1], keep, weight); });
}

}  // namespace FA_ISA
}  // namespace fastattack
