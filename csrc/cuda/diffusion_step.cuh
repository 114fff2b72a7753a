// x = a x + b eps_hat + c z
#pragma once
#include "fastattack/diffusion_step.h"
#include "numbers.cuh"

namespace fastattack {
inline namespace FA_ISA {

template <class S>
struct DiffusionStep {
  Samples<S, 2> at;  // x, eps_hat; walked in logical order. Where b is 0, x may stand in the place of eps_hat
  PerSample a, b, c;
  Numbers numbers;
  i64 step;

  FA_DEVICE FourNormals normals(i64 quad) const {
    return four_normals(numbers.words(at.sample(), quad, numbered(STREAM_DIFFUSION, (u32)step)));
  }
};

// The elements of a quad, with its normals.
template <class S, class T>
FA_DEVICE void diffuse_quad(const DiffusionStep<S>& p, i64 quad, Diffusion<T> by) {
  FourNormals z = p.normals(quad);
  auto value = [&](int j, S x, S eps_hat) {
    return Storage<S>::store(diffused<S>(Storage<S>::load(x), Storage<S>::load(eps_hat), (T)z.v[j], by));
  };
  i64 first = 4 * quad, sample = p.at.sample();
  bool guided = by.b != T(0);
  if (p.at.walk == VECTORS && first + 4 <= p.at.count) {
    Four<S>* place = reinterpret_cast<Four<S>*>(p.at.data[0] + sample * p.at.strides[0][0] + first);
    Four<S> x = *place, eps_hat = {};
    if (guided) eps_hat = *reinterpret_cast<Four<S>*>(p.at.data[1] + sample * p.at.strides[1][0] + first);
    for (int j = 0; j < 4; ++j) x.v[j] = value(j, x.v[j], eps_hat.v[j]);
    *place = x;
    return;
  }
  for (int j = 0; j < 4; ++j) {
    if (first + j < p.at.count) {
      i64 at[3];
      offsets(p.at, sample, first + j, at);
      S& x = p.at.data[0][at[0]];
      x = value(j, x, guided ? p.at.data[1][at[1]] : S{});
    }
  }
}

template <class S>
FA_KERNEL diffusion_step_kernel(const DiffusionStep<S> p) {
  using T = typename Storage<S>::real;
  i64 sample = p.at.sample();
  Diffusion<T> by{(T)p.a.at(sample), (T)p.b.at(sample), (T)p.c.at(sample)};
  if (by.c == T(0)) {
    map(p.at, [&](const T(&x)[2], bool) { return diffused<S>(x[0], x[1], T(0), by); });
    return;
  }
  for_each_quad(p.at, [&](i64 quad) { diffuse_quad(p, quad, by); });
}

}  // namespace FA_ISA
}  // namespace fastattack
