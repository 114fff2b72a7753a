// One step of ObsAtk, arXiv 2201.04397: along the gradient without its mean, then the nearest point of the ball
// |adv - origin|_2 <= eps among those whose perturbation has mean 0.
#pragma once
#include "pgd_step.h"

namespace fastattack {
inline namespace FA_ISA {

// The entries of one pixel, taken off every other before it is squared. Its own distance to the mean is part of the
// centred square, so that taking off the mean afterwards costs no more than a factor of the sample's size in accuracy,
// however large the mean is; and where all entries are equal the sums are exactly 0.
struct Pivots {
  double grad, delta;  // times the scales
};

// Sums over one sample of gradient and perturbation less the pivots, and of what their rounding is measured by.
struct ZeroMeanSums {
  double g, gg, d, dd, dg, size;
};

template <class T>
FA_HD Pivots pivots_of(T adv, T grad, T origin, Scales s) {
  return Pivots{(double)grad * s.grad, (double)(adv - origin) * s.delta};
}

template <class T>
FA_HD ZeroMeanSums zero_mean_terms(T adv, T grad, T origin, Scales s, Pivots p) {
  double g = (double)grad * s.grad - p.grad;
  double d = (double)(adv - origin) * s.delta - p.delta;
  double size = (double)magnitude(adv) * s.delta + (double)magnitude(origin) * s.delta;
  return ZeroMeanSums{g, g * g, d, d * d, d * g, size};
}

// pivot + rest in two numbers of type T: an error of the mean is the same in every pixel and would add up.
template <class T>
struct Split {
  T high, low;
};

template <class T>
FA_HD Split<T> split(double pivot, double rest) {
  T high = (T)(pivot + rest);
  return Split<T>{high, (T)((pivot - (double)high) + rest)};
}

// How far from 0 a mean counts as 0: the spacing of a storage type relative to its numbers (twice that where the
// arithmetic rounds as coarsely), and the size below which it stays the same.
template <class S>
struct Spacing;
template <>
struct Spacing<float> {
  static constexpr double relative = 0x1p-22, least = 0x1p-126;
};
template <>
struct Spacing<double> {
  static constexpr double relative = 0x1p-51, least = 0x1p-1022;
};
template <>
struct Spacing<half_t> {
  static constexpr double relative = 0x1p-10, least = 0x1p-14;
};
template <>
struct Spacing<bfloat_t> {
  static constexpr double relative = 0x1p-7, least = 0x1p-126;
};

template <class T>
struct ZeroMeanMap {
  Split<T> grad, delta;  // the means
  StepL2<T> l2;
  bool still;  // nothing to do: no step, inside, and a mean of 0 to the rounding of the storage
};

// What is left of a square without the mean; a NaN stays a NaN.
FA_HD double centred_square(double sum, double square, double count) {
  double centred = square - sum * sum / count;
  return centred < 0.0 ? 0.0 : centred;
}

template <class S, class T = typename Storage<S>::real>
FA_HD ZeroMeanMap<T> zero_mean_map(ZeroMeanSums s, Pivots p, double count, double eps, double step, Scales scale,
                                   double reach = 1.0) {
  StepSums centred{centred_square(s.g, s.gg, count), s.dg - s.d * s.g / count, centred_square(s.d, s.dd, count)};
  ZeroMeanMap<T> map;
  map.l2 = step_l2(centred, eps, step, scale, T(0), reach);
  map.grad = split<T>(p.grad / scale.grad, s.g / count / scale.grad);
  map.delta = split<T>(p.delta / scale.delta, s.d / count / scale.delta);
  double rounding = Spacing<S>::relative * (s.size + count * Spacing<S>::least * scale.delta);
  bool near = magnitude(s.d + count * p.delta) <= rounding;
  map.still = (map.l2.second == T(0)) & (map.l2.shrink == T(1)) & near;
  return map;
}

template <class S, class T>
FA_HD T zero_mean_apply(T adv, T grad, T origin, const ZeroMeanMap<T>& map) {
  T move = ((grad - map.grad.high) - map.grad.low) * map.l2.first * map.l2.second;
  T delta = ((adv - origin) - map.delta.high) - map.delta.low;
  T x = add_inward<S>(origin, map.l2.shrink * (delta + move));
  return map.still ? adv : x;
}

}  // namespace FA_ISA
}  // namespace fastattack
