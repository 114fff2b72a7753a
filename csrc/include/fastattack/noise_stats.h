// Mean, standard deviation, norms and typicality of one sample from one pass (arXiv 2412.05943; docs/architecture.md).
#pragma once
#include "base.h"

namespace fastattack {
inline namespace FA_ISA {

// Sums of x = noise - mean (shifted so that the variance does not cancel), and of |noise|; float64 data is scaled
// first.
struct NoiseSums {
  double sum, square, absolute, raw_square, largest;
};

FA_HD NoiseSums noise_terms(double noise, double mean, double scale) {
  double n = noise * scale;
  double x = n - mean * scale;
  double a = magnitude(n);
  return NoiseSums{x, x * x, a, n * n, a};
}

constexpr int NOISE_STATS = 6;  // mean, std, l1, l2, linf, typicality

// std has d in its denominator (the maximum-likelihood estimate that the typicality gap uses).
FA_HD void finish_noise_stats(NoiseSums s, double count, double mean, double sigma, double scale, double* out) {
  double shifted = s.sum / count;
  double variance = s.square / count - shifted * shifted;
  out[0] = mean + shifted / scale;
  out[1] = root(variance < 0.0 ? 0.0 : variance) / scale;
  out[2] = s.absolute / scale;
  out[3] = root(s.raw_square) / scale;
  out[4] = (s.absolute == s.absolute ? s.largest : s.absolute) / scale;  // comparisons drop a NaN, sums keep it
  double ratio = root(s.square / count) / scale / sigma;
  out[5] = 0.5 * (ratio * ratio - 1.0);
}

}  // namespace FA_ISA
}  // namespace fastattack
