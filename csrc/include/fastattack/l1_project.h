// Projection onto { z : sum |z - origin| <= eps } and the bounds together: Croce & Hein, arXiv 2103.01208.
//
// With d = adv - origin the nearest point is z = origin + clip(sign(d) max(|d| - lambda, 0), low - origin, high -
// origin), where lambda >= 0 is the root of sum |z - origin| = eps, a falling, piecewise linear function. Newton's
// method is exact on the last piece. A bracket guards it, because the faces of the box make the function concave in
// places; far from the root it works on the square root of the sum, which halves the rounds of a random start.
#pragma once
#include "pgd_step.h"

namespace fastattack {
inline namespace FA_ISA {

constexpr int L1_ROUNDS = 32;        // a step takes 3 or 4; heavy tails far outside the box take the most
constexpr double L1_GOAL = 0x1p-30;  // relative error of the sum at which a sample is finished

// Sums over a sample at one lambda. `free`: entries that still move with lambda. Wanted at lambda = 0 alone: `least`,
// the sum at lambda = infinity (0 where origin lies within the bounds), and `largest`, max |d|.
struct L1Sums {
  double sum, free, least, largest;
};

// max(|d| - lambda, 0); a NaN stays.
template <class T>
FA_HD double l1_rest(T delta, double lambda) {
  double rest = magnitude((double)delta) - lambda;
  return rest < 0.0 ? 0.0 : rest;
}

template <class T>
FA_HD L1Sums l1_terms(T adv, T origin, double lambda, Bounds<double> bounds) {
  double d = (double)(adv - origin), rest = l1_rest(adv - origin, lambda);
  double low = bounds.low - (double)origin, high = bounds.high - (double)origin;
  double moved = with_sign_of(rest, d);
  double free = rest > 0.0 ? 1.0 : 0.0;  // selects, not boolean algebra: gcc vectorises those alone
  free = moved > low ? free : 0.0;
  free = moved < high ? free : 0.0;
  return L1Sums{magnitude(clip(moved, low, high)), free, magnitude(clip(0.0, low, high)), magnitude(d)};
}

struct L1State {
  double lambda;        // where the next round evaluates; the answer once done
  double inside;        // the smallest lambda known to lie inside the ball
  double outside;       // the largest known to lie outside
  double merit, width;  // |error| * slope, and the bracket's width, of the round before
  double target;        // the radius with its reserve
  double done;          // 1: frozen
};

FA_HD void l1_advance(L1State& s, L1Sums q) {
  if (s.done != 0.0) return;
  double error = q.sum - s.target;
  if (!(magnitude(error) > L1_GOAL * s.target)) {
    s.done = 1.0;
    return;
  }
  s.outside = error > 0.0 ? s.lambda : s.outside;
  s.inside = error > 0.0 ? s.inside : s.lambda;
  double merit = magnitude(error) * q.free, width = s.inside - s.outside;
  bool slow = (merit > 0.5 * s.merit) & (width > 0.5 * s.width);
  double next = s.lambda + error / q.free;
  double far = s.lambda + 2.0 * (q.sum / q.free) * (1.0 - root(s.target / q.sum));
  bool use_far = (q.sum > 2.0 * s.target) & (far > s.outside) & (far < s.inside);
  next = use_far ? far : next;
  double middle = s.outside + 0.5 * width;
  next = !slow & (next > s.outside) & (next < s.inside) ? next : middle;
  bool between = (next > s.outside) & (next < s.inside);
  s.lambda = between ? next : s.inside;  // no number is left between the ends
  s.done = between ? 0.0 : 1.0;
  s.merit = merit;
  s.width = width;
}

// From the sums at lambda = 0. A NaN or an infinite distance makes the whole sample NaN: no ball could be promised.
FA_HD L1State l1_begin(L1Sums q, double eps) {
  double infinity = double_of(0x7ff0000000000000ull);
  L1State s{0.0, q.largest, 0.0, infinity, q.largest, eps * SHRINK_MARGIN, 0.0};
  bool lost = !((q.sum == q.sum) & (q.largest < infinity));
  bool stays = q.sum <= eps;         // inside: lambda = 0
  bool empty = q.least >= s.target;  // ball and bounds do not meet: the bounds win, lambda = infinity
  s.done = lost | stays | empty ? 1.0 : 0.0;
  s.lambda = lost ? infinity - infinity : (!stays & empty ? infinity : 0.0);
  l1_advance(s, q);
  return s;
}

// Where the rounds ran out: the end of the bracket that lies in the ball.
FA_HD double l1_lambda(const L1State& s) { return s.done != 0.0 ? s.lambda : s.inside; }

// The nearest number of the arithmetic type that is not above x >= 0.
FA_HD float narrowed_inward(double x, float) {
  float nearest = (float)x;
  return float_of(bits_of(nearest) - ((double)nearest > x ? 1u : 0u));
}
FA_HD double narrowed_inward(double x, double) { return x; }

template <class S, class T>
FA_HD T l1_apply(T adv, T origin, double lambda, Bounds<T> bounds) {
  T d = adv - origin;
  T delta = with_sign_of(narrowed_inward(l1_rest(d, lambda), T(0)), d);
  T x = lambda == 0.0 ? adv : add_inward<S>(origin, delta);
  return clip(x, bounds.low, bounds.high);
}

}  // namespace FA_ISA
}  // namespace fastattack
