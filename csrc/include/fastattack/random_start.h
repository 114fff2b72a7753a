// A uniform point of the ball. linf: independent uniforms. l2: the first d coordinates of a uniform point on the sphere
// in d + 2 dimensions are uniform in the d-ball, so the radius needs no power function.
//
// Squared normals are summed as integers (multiples of 2^-k held exactly in double), so the order of the sum, and with
// it the backend, thread count and block shape, cannot change a bit.
#pragma once
#include "pgd_step.h"
#include "philox.h"

namespace fastattack {
inline namespace FA_ISA {

// The grid on which squared normals are summed: a square is below 64, so count * 64 * 2^k < 2^53.
FA_HD double square_grid(i64 count) {
  int bits = 0;
  while (((i64)1 << bits) < count + 2) ++bits;
  return power_of_two(46 - bits);
}

// The nearest integer, ties upwards; both operations are exact for 0 <= x < 2^52 up to the final rounding.
FA_HD double on_grid(float normal, double grid) {
  double n = (double)normal;
  double x = n * n * grid + 0.5;
  return (double)(i64)x;
}

// The two coordinates beyond the sample's d: they come from a counter of their own.
FA_HD double extra_square(u64 seed, u32 id_low, u32 id_high, double grid) {
  Words w = philox(0xffffffffu, id_low, id_high, STREAM_RANDOM_START, seed);
  Normals n = normal_pair(w.w[0], w.w[1]);
  return on_grid(n.a, grid) + on_grid(n.b, grid);
}

// eps / |normals|, from the sum on the grid.
FA_HD double start_scale(double sum, double grid, double eps) {
  return sum > 0.0 ? eps / root(sum / grid) * SHRINK_MARGIN : 0.0;
}

template <class S, class T>
FA_HD T start_point(T origin, T delta, Bounds<T> bounds) {
  return clip(add_inward<S>(origin, delta), bounds.low, bounds.high);
}

}  // namespace FA_ISA
}  // namespace fastattack
