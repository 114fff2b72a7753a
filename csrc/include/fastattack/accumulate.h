// total <- keep total + weight grad: several gradients in one buffer. Two products and a sum, each rounded: no backend
// fuses them. What is taken 0 times is not looked at, so that no NaN comes from it.
#pragma once
#include "storage.h"

namespace fastattack {
inline namespace FA_ISA {

template <class S, class T>
FA_HD T accumulated(T total, T grad, T keep, T weight) {
  T kept = keep == T(0) ? T(0) : keep * total;
  T added = weight == T(0) ? T(0) : weight * grad;
  return Storage<S>::round(kept + added);
}

}  // namespace FA_ISA
}  // namespace fastattack
