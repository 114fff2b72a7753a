// The nearest point of the grid k / levels, k = 0 .. levels, that a ball and bounds allow: images as integers hold
// them.
#pragma once
#include "pgd_step.h"

namespace fastattack {
inline namespace FA_ISA {

// To the nearest whole number, for |x| < 2^22.
FA_HD float whole(float x) { return (x + 0x1.8p23f) - 0x1.8p23f; }
FA_HD double whole(double x) { return (x + 0x1.8p52) - 0x1.8p52; }

template <class T>
FA_HD T grid_point(T k, T levels) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(T) == sizeof(float))
    return __fdiv_rn(k, levels);
  else
    return __ddiv_rn(k, levels);
#else
  return k / levels;
#endif
}

// |v - x|, infinite where v is not allowed.
template <class T>
FA_HD T gap_of(T v, T x, T origin, T eps, Bounds<T> bounds) {
  T infinite = (T)1e30;  // more than any distance within [0, 1]
  T gap = magnitude(v - origin) <= eps ? magnitude(v - x) : infinite;
  gap = v < bounds.low ? infinite : gap;
  return v > bounds.high ? infinite : gap;
}

// The grid point nearest to adv, the lower of two, among those with |v - origin| <= eps within the bounds, which lie
// inside [0, 1]; NaN where there is none. The allowed points are neighbours, so the answer is the one below or above
// adv, moved into ball and bounds: the rounded guess is one of the two, and the side on which it fails names the other.
// Both are tested, so the result does not depend on the rounding of the guess. The distances that are compared are
// exact (Sterbenz).
template <class T>
FA_HD T quantise(T adv, T origin, T eps, Bounds<T> bounds, T levels) {
  T x = clip(adv, T(0), T(1));
  T target = clip(clip(x, origin - eps, origin + eps), bounds.low, bounds.high);
  T k = whole(target * levels);
  T v = grid_point(k, levels);
  T other = x > v ? k + T(1) : k - T(1);
  other = v - origin < -eps ? k + T(1) : other;
  other = v - origin > eps ? k - T(1) : other;
  other = v < bounds.low ? k + T(1) : other;
  other = v > bounds.high ? k - T(1) : other;
  T w = grid_point(other, levels);
  T gap = gap_of(v, x, origin, eps, bounds), gap_w = gap_of(w, x, origin, eps, bounds);
  T low = v < w ? v : w;
  T nearest = gap_w < gap ? w : v;
  nearest = gap_w == gap ? low : nearest;
  T least = gap_w < gap ? gap_w : gap;
  return least <= T(1) ? nearest : (T)float_of(0x7fc00000u);
}

// How far from origin a pixel may end: eps ("linf"), or no farther than it is.
template <class T>
FA_HD T quantise_reach(T adv, T origin, T eps, bool linf) {
  T moved = magnitude(adv - origin);
  return linf ? eps : moved;
}

}  // namespace FA_ISA
}  // namespace fastattack
