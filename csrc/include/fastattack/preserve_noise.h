// Projection onto { y' : |y' - y|_p <= eps, mean(y' - x) = mean(n), |y' - x| = |n| }, with n = y - x and t = adv - x.
//
// linf: by Lagrange's conditions the nearest point has the form z = clip(a t - b, n - eps, n + eps). (a, b) is found by
// Newton's method on the dual function of mean and norm, which is concave, so that a step which lowers it is merely too
// long. The start is the pair that recentres and rescales t; typically three rounds follow.
// l2: closed form. The set is a spherical cap: t is rotated towards n in the plane of both.
#pragma once
#include "pgd_step.h"

namespace fastattack {
inline namespace FA_ISA {

constexpr int PRESERVE_ROUNDS = 16;
constexpr double PRESERVE_GOAL = 1e-6;    // relative error at which a sample is finished
constexpr double PRESERVE_ACCEPT = 4e-5;  // beyond this the noise is left as it was: delta = 0 is always in the set

struct Moments {
  double n, nn, t, tt, tn;
};

template <class T>
FA_HD Moments moment_terms(T adv, T origin, T clean) {
  double t = (double)(adv - clean), n = (double)(origin - clean);
  return Moments{n, n * n, t, t * t, t * n};
}

// Sums over z at one (a, b); `free` counts the entries that no face of the box holds.
struct PreserveSums {
  double z, zz, zt, free, free_t, free_tt;
};

template <class T>
FA_HD PreserveSums preserve_terms(T adv, T origin, T clean, T eps, T a_minus_1, T b) {
  T t = adv - clean, n = origin - clean;
  T raw = t + (a_minus_1 * t - b);
  T low = n - eps, high = n + eps;
  double z = (double)clip(raw, low, high), td = (double)t;
  bool inside = (raw > low) & (raw < high);
  double free = inside ? 1.0 : 0.0;
  double free_t = inside ? td : 0.0;
  return PreserveSums{z, z * z, z * td, free, free_t, free_t * td};
}

// lambda and mu are the multipliers of norm and mean: a = 1 / (1 + lambda), b = mu a.
struct PreserveState {
  double lambda, mu;                    // the point that the next round evaluates
  double from_lambda, from_mu;          // the last point that raised the dual, and Newton's step from it
  double step_lambda, step_mu, length;  //
  double dual;                          // its value there
  double best_lambda, best_mu, best;    // smallest error so far
  double done;                          // 1: frozen
};

FA_HD double larger(double a, double b) { return a > b ? a : b; }

FA_HD double variance_sum(double sum, double square, double count) { return larger(0.0, square - sum * sum / count); }

FA_HD PreserveState preserve_begin(Moments m, double count) {
  double vn = variance_sum(m.n, m.nn, count), vt = variance_sum(m.t, m.tt, count);
  // Constant noise allows nothing but itself; its variance is zero up to the rounding of the sums.
  bool constant = vn <= 1e-12 * m.nn;
  double a = vt > 1e-20 * vn && !constant ? root(vn / vt) : 1.0;
  double b = (a * m.t - m.n) / count;
  double huge = 1e300;
  return PreserveState{1.0 / a - 1.0, b / a, 0, 0, 0, 0, 1, -huge, 0, 0, huge, constant ? 1.0 : 0.0};
}

FA_HD void preserve_advance(PreserveState& s, PreserveSums q, Moments m, double count) {
  if (s.done != 0.0) return;
  double slope_lambda = 0.5 * (q.zz - m.nn), slope_mu = q.z - m.n;
  double mean_error = magnitude(slope_mu) / root(count * m.nn), norm_error = magnitude(slope_lambda) / m.nn;
  double error = larger(mean_error, norm_error);
  if (error < s.best || error != error) {  // a NaN must reach the result
    s.best = error;
    s.best_lambda = s.lambda;
    s.best_mu = s.mu;
  }
  if (!(error > PRESERVE_GOAL)) {
    s.done = 1.0;
    return;
  }
  double dual = 0.5 * q.zz - q.zt + s.lambda * slope_lambda + s.mu * slope_mu;
  if (dual >= s.dual - 1e-13 * m.tt) {
    double a = 1.0 / (1.0 + s.lambda), b = s.mu * a;
    double free_z = a * q.free_t - b * q.free;
    double free_zz = a * a * q.free_tt - 2.0 * a * b * q.free_t + b * b * q.free;
    // Minus the Hessian, lifted a little so that it can be inverted where no entry is free.
    double h11 = a * free_zz + 1e-7 * m.nn, h12 = a * free_z, h22 = a * q.free + 1e-7 * count;
    double det = h11 * h22 - h12 * h12;
    s.from_lambda = s.lambda;
    s.from_mu = s.mu;
    s.dual = dual;
    s.step_lambda = (h22 * slope_lambda - h12 * slope_mu) / det;
    s.step_mu = (h11 * slope_mu - h12 * slope_lambda) / det;
    double longest = 0.5 * (1.0 + s.lambda), size = magnitude(s.step_lambda);  // keeps a > 0
    s.length = size > longest ? longest / size : 1.0;
  } else {
    s.length *= 0.3;
  }
  s.lambda = s.from_lambda + s.length * s.step_lambda;
  s.mu = s.from_mu + s.length * s.step_mu;
}

// z = A t + B n + C written as a move from the point that is kept: linf from adv (B unused), l2 from origin.
template <class T>
struct PreserveMap {
  T a, b, c;   // linf: a - 1, b, 0. l2: A, B - 1, C
  bool still;  // the noise stays as it is
};

template <class T>
FA_HD PreserveMap<T> preserve_at(double lambda, double mu) {
  double a = 1.0 / (1.0 + lambda);
  return PreserveMap<T>{(T)(-lambda * a), (T)(mu * a), T(0), false};
}

template <class T>
FA_HD PreserveMap<T> preserve_finish_linf(const PreserveState& s) {
  PreserveMap<T> map = preserve_at<T>(s.best_lambda, s.best_mu);
  map.still = s.best > PRESERVE_ACCEPT;
  return map;
}

template <class T>
FA_HD PreserveMap<T> preserve_finish_l2(Moments m, double count, double eps) {
  double mean = m.n / count, mean_t = m.t / count;
  double rr = variance_sum(m.n, m.nn, count), vv = variance_sum(m.t, m.tt, count);
  double uv = m.tn - m.n * m.t / count;
  bool still = rr <= 1e-12 * m.nn || vv <= 1e-12 * m.tt;
  double a = root(rr / vv), b_minus_1 = -1.0;
  double keep = eps * SHRINK_MARGIN;
  double chord = keep * keep / (2.0 * rr);  // 1 - cos of the widest angle allowed
  if (!still && 1.0 - uv / root(rr * vv) > chord) {
    double across = vv - uv * uv / rr;  // of t, orthogonal to n
    still = across <= 1e-12 * vv;
    a = root(chord * (2.0 - chord) * rr / across);
    b_minus_1 = -chord - a * uv / rr;
  }
  double c = -b_minus_1 * mean - a * mean_t;
  return PreserveMap<T>{(T)a, (T)b_minus_1, (T)c, still};
}

template <class S, class T>
FA_HD T preserve_apply_linf(T adv, T origin, T clean, T eps, PreserveMap<T> map) {
  T t = adv - clean;
  T x = adv + (map.a * t - map.b);
  return map.still ? origin : clip_to_ball_linf<S>(x, origin, eps);
}

template <class S, class T>
FA_HD T preserve_apply_l2(T adv, T origin, T clean, PreserveMap<T> map) {
  T t = adv - clean, n = origin - clean;
  T delta = map.a * t + (map.b * n + map.c);
  return map.still ? origin : add_inward<S>(origin, delta);
}

}  // namespace FA_ISA
}  // namespace fastattack
