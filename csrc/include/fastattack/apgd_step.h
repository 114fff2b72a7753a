// One step of APGD with momentum: z = P(adv + step direction(grad)), then the projection of
// adv + momentum (z - adv) + (1 - momentum) (adv - previous). Croce & Hein, arXiv 2003.01690, algorithm 1.
#pragma once
#include "project.h"

namespace fastattack {
inline namespace FA_ISA {

// In this order of operations on every backend. A momentum of 1 gives z to the bit, whatever previous holds.
template <class S, class T>
FA_HD T apgd_step_linf(T adv, T previous, T grad, T origin, T eps, T step, T momentum, Bounds<T> bounds) {
  T z = pgd_step_linf<S>(adv, grad, origin, eps, step, bounds);
  T rest = T(1) - momentum;
  T x = z + rest * ((adv - previous) - (z - adv));
  return project_linf<S>(rest == T(0) ? z : x, origin, eps, bounds);
}

// l2, with d = adv - origin, p = adv - previous, g = grad: the point before its last projection lies at
// w = z + rest (d + p - z) from origin, z = shrink (d + step g) clipped to the bounds. Without bounds w is a linear
// combination of d, p and g, and the six products below give both norms, |d + step g| and |w|, in one reduction.

struct MomentumSums {
  double dd, dp, dg, pp, pg, gg;
};

// In double from here on: rounding a combination of three vectors in float32 again and again could use up
// SHRINK_MARGIN.
template <class T>
FA_HD double lag(T adv, T previous, double rest) {
  return rest == 0.0 ? 0.0 : (double)(adv - previous);  // previous may hold anything in the first iteration
}

template <class T>
FA_HD MomentumSums momentum_terms(T adv, T previous, T grad, T origin, double rest, Scales scale) {
  double d = (double)(adv - origin) * scale.delta;
  double p = lag(adv, previous, rest) * scale.delta;
  double g = (double)grad * scale.grad;
  return MomentumSums{d * d, d * p, d * g, p * p, p * g, g * g};
}

struct MomentumL2 {
  double grad_scale, step, shrink, rest;  // step: per unit of the scaled gradient; shrink: of z; rest: 1 - momentum
  double norm;                            // |w|, from the sums
  bool measure;                           // |w| must be summed again, from the pixels
};

// The sums err by 1e-12 of their terms at most. Where that is more than 1e-8 of |w|^2 and of eps^2 (vectors far longer
// than the radius that cancel), or where bounds cut z, the norm is measured.
FA_HD MomentumL2 momentum_l2(MomentumSums s, double eps, double step, double momentum, Scales scale, bool bounded) {
  double length = root(s.gg);
  double c = length > 0.0 ? step / length : (length == 0.0 ? 0.0 : length);
  double unit = c * scale.delta, rest = 1.0 - momentum;
  double after = s.dd + 2.0 * unit * s.dg + unit * unit * s.gg;
  double shrink = shrink_to(root(after < 0.0 ? 0.0 : after) / scale.delta, eps);
  double kd = shrink + rest * (1.0 - shrink), kg = (1.0 - rest) * shrink * unit;
  double squares = kd * kd * s.dd + rest * rest * s.pp + kg * kg * s.gg;
  double dp = 2.0 * kd * rest * s.dp, dg = 2.0 * kd * kg * s.dg, pg = 2.0 * rest * kg * s.pg;
  double square = squares + dp + dg + pg;
  double terms = squares + magnitude(dp) + magnitude(dg) + magnitude(pg);
  double radius = eps * scale.delta, larger = square > radius * radius ? square : radius * radius;
  double norm = root(square < 0.0 ? 0.0 : square) / scale.delta;
  return MomentumL2{scale.grad, c, shrink, rest, norm, bounded || terms > 1e4 * larger};
}

// w of one pixel.
template <class T>
FA_HD double momentum_delta(T adv, T previous, T grad, T origin, const MomentumL2& l2, Bounds<T> bounds) {
  double d = (double)(adv - origin), o = (double)origin;
  double z = l2.shrink * (d + l2.step * ((double)grad * l2.grad_scale));
  z = clip(z, (double)bounds.low - o, (double)bounds.high - o);
  return z + l2.rest * ((d + lag(adv, previous, l2.rest)) - z);
}

template <class S, class T>
FA_HD T apgd_step_l2(T adv, T previous, T grad, T origin, const MomentumL2& l2, double shrink, Bounds<T> bounds) {
  double w = momentum_delta(adv, previous, grad, origin, l2, bounds);
  bool still = (w == (double)(adv - origin)) & (shrink == 1.0);
  T moved = add_inward<S>(origin, (T)(shrink * w));
  return clip(still ? adv : moved, bounds.low, bounds.high);
}

}  // namespace FA_ISA
}  // namespace fastattack
