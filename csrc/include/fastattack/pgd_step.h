// One projected-gradient step. linf: adv + step sign(grad), clipped to the box. l2: adv + step grad/|grad|, scaled back
// onto the ball. Madry et al., arXiv 1706.06083.
#pragma once
#include "storage.h"

namespace fastattack {
inline namespace FA_ISA {

template <class T>
struct Bounds {
  T low, high;
};

// step * sign(grad), where sign(0) = 0 and a NaN stays a NaN.
template <class T>
FA_HD T signed_step(T grad, T step) {
  T r = grad > T(0) ? step : grad;
  return grad < T(0) ? -step : r;
}

template <class S, class T>
FA_HD T clip_to_ball_linf(T x, T origin, T eps) {
  // On the storage grid where that lies in the box, else the face of the box on x's side, rounded inwards.
  x = Storage<S>::round(x);
  T moved = x - origin;
  T face = add_inward<S>(origin, with_sign_of(eps, moved));
  return magnitude(moved) > eps ? face : x;
}

template <class S, class T>
FA_HD T pgd_step_linf(T adv, T grad, T origin, T eps, T step, Bounds<T> bounds) {
  T x = clip_to_ball_linf<S>(adv + signed_step(grad, step), origin, eps);
  return clip(x, bounds.low, bounds.high);
}

// Sums over one sample, in double: float32 squares neither overflow nor vanish there. float64 data is scaled by powers
// of two (`Scales`) that the caller chose from the largest entry.
struct StepSums {
  double gg, dg, dd;
};
struct Scales {
  double grad, delta;
};

template <class T>
FA_HD StepSums step_terms(T adv, T grad, T origin, Scales s) {
  double g = (double)grad * s.grad;
  double d = (double)(adv - origin) * s.delta;
  return StepSums{g * g, d * g, d * d};
}

// 2^k, |k| <= 1022
FA_HD double power_of_two(int k) { return double_of((u64)(1023 + k) << 52); }
FA_HD int exponent_of(double x) { return (int)((bits_of(x) >> 52) & 0x7ffu) - 1023; }
FA_HD int clip_int(int x, int low, int high) { return x < low ? low : (x > high ? high : x); }

// What the apply pass needs: delta' = shrink * (delta + grad * first * second). Two factors, because step/|grad| alone
// can leave the range of float32 where the product does not.
template <class T>
struct StepL2 {
  T first, second, shrink;
};

// A hair inside, so that rounding of the scaled delta cannot carry its norm out of the ball.
constexpr double SHRINK_MARGIN = 1.0 - 0x1p-22;

// `reach`: below 1 where the norm itself is a little uncertain, so that no point outside passes for one inside.
FA_HD double shrink_to(double norm, double eps, double reach = 1.0) {
  double shrink = eps / norm * SHRINK_MARGIN;
  return norm > eps * reach ? (shrink < 1.0 ? shrink : 1.0) : 1.0;
}

FA_HD StepL2<float> step_l2(StepSums s, double eps, double step, Scales, float, double reach = 1.0) {
  double norm = root(s.gg);
  double c = norm > 0.0 ? step / norm : (norm == 0.0 ? 0.0 : norm);
  double after = s.dd + 2.0 * c * s.dg + c * c * s.gg;
  after = after < 0.0 ? 0.0 : after;
  int k = norm > 0.0 ? clip_int(-exponent_of(norm), -126, 126) : 0;
  return StepL2<float>{(float)power_of_two(k), (float)(c * power_of_two(-k)),
                       (float)shrink_to(root(after), eps, reach)};
}

FA_HD StepL2<double> step_l2(StepSums s, double eps, double step, Scales scale, double, double reach = 1.0) {
  double norm = root(s.gg);
  double c = norm > 0.0 ? step / norm : (norm == 0.0 ? 0.0 : norm);  // per unit of the scaled gradient
  double unit = c * scale.delta;                                     // the step in scaled units of delta
  double after = s.dd + 2.0 * unit * s.dg + unit * unit * s.gg;
  after = after < 0.0 ? 0.0 : after;
  return StepL2<double>{scale.grad, c, shrink_to(root(after) / scale.delta, eps, reach)};
}

template <class S, class T>
FA_HD T apply_l2(T adv, T move, T origin, T shrink, Bounds<T> bounds) {
  T delta = shrink * ((adv - origin) + move);
  bool still = (move == T(0)) & (shrink == T(1));
  T x = still ? adv : add_inward<S>(origin, delta);
  return clip(x, bounds.low, bounds.high);
}

}  // namespace FA_ISA
}  // namespace fastattack
