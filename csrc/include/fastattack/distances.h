// Mean squared error and norms of the difference of two samples, from one pass.
#pragma once
#include "storage.h"

namespace fastattack {
inline namespace FA_ISA {

// Sums over d = a - b, which double holds exactly or to its own rounding. Squares of float64 can leave double's range:
// they are summed for d, d / REACH and d * REACH, and one of the three is right. The other types need the first alone.
struct DistanceSums {
  double square, shrunk, grown, absolute, largest;
};

constexpr double REACH = 0x1p600;

template <class T>
FA_HD DistanceSums distance_terms(T a, T b) {
  constexpr bool WIDE = sizeof(T) == sizeof(double);
  double d = (double)a - (double)b, size = magnitude(d);
  double less = WIDE ? d * (1.0 / REACH) : 0.0, more = WIDE ? d * REACH : 0.0;
  return DistanceSums{d * d, less * less, more * more, size, size};
}

constexpr int DISTANCES = 4;  // mse, l1, l2, linf

FA_HD void finish_distances(DistanceSums s, double count, double* out) {
  bool large = s.square > 1e290 && s.shrunk > 0.0, small = s.square < 1e-200 && s.grown > 0.0;
  double square = large ? s.shrunk : small ? s.grown : s.square;  // a NaN is neither, and stays
  double unit = large ? REACH : small ? 1.0 / REACH : 1.0;
  out[0] = square / count * unit * unit;
  out[1] = s.absolute;
  out[2] = root(square) * unit;
  out[3] = s.absolute == s.absolute ? s.largest : s.absolute;  // comparisons drop a NaN, sums keep it
}

}  // namespace FA_ISA
}  // namespace fastattack
