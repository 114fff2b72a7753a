// x <- a x + b eps_hat + c z: one step of a diffusion, z standard normal. Three products and two sums, each rounded, in
// this order: no backend fuses them. What is taken 0 times is not looked at, so that no NaN comes from it.
#pragma once
#include "philox.h"
#include "storage.h"

namespace fastattack {
inline namespace FA_ISA {

template <class T>
struct Diffusion {
  T a, b, c;
};

template <class S, class T>
FA_HD T diffused(T x, T eps_hat, T z, Diffusion<T> by) {
  T kept = by.a == T(0) ? T(0) : by.a * x;
  T guided = by.b == T(0) ? T(0) : by.b * eps_hat;
  T drawn = by.c == T(0) ? T(0) : by.c * z;
  return Storage<S>::round(kept + guided + drawn);
}

}  // namespace FA_ISA
}  // namespace fastattack
