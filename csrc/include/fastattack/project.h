// Projection onto the ball |adv - origin|_p <= eps. A point inside stays where it is, to the bit.
#pragma once
#include "pgd_step.h"

namespace fastattack {
inline namespace FA_ISA {

template <class S, class T>
FA_HD T project_linf(T adv, T origin, T eps, Bounds<T> bounds) {
  return clip(clip_to_ball_linf<S>(adv, origin, eps), bounds.low, bounds.high);
}

template <class T>
FA_HD double delta_square(T adv, T origin, double scale) {
  double d = (double)(adv - origin) * scale;
  return d * d;
}

}  // namespace FA_ISA
}  // namespace fastattack
