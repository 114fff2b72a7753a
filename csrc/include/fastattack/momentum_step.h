// momentum <- decay momentum + grad / mean|grad|, then a step of pgd_step.h along the momentum. MI-FGSM, Dong et al.,
// arXiv 1710.06081, with the mean in place of the sum: the same direction, in numbers near 1, which half precision
// holds.
#pragma once
#include "pgd_step.h"

namespace fastattack {
inline namespace FA_ISA {

template <class T>
FA_HD double magnitude_term(T grad, double scale) {
  return magnitude((double)grad * scale);
}

// grad / mean|grad| = (grad * first) * second. Two factors, because 1 / mean|grad| alone can leave the range of
// float32; the first is a power of two and the second above 1, so that no small gradient vanishes between them.
template <class T>
struct Unit {
  T first, second;
};

// `sum` of |grad| * scale over a sample of `count` elements. A gradient of zeros adds nothing.
FA_HD Unit<float> unit_of(double sum, i64 count, double, float) {
  double mean = sum / (double)count;
  int k = clip_int(-1 - exponent_of(mean), -126, 126);
  return Unit<float>{(float)power_of_two(k), (float)(mean == 0.0 ? 0.0 : power_of_two(-k) / mean)};
}

FA_HD Unit<double> unit_of(double sum, i64 count, double scale, double) {
  double mean = sum / (double)count;
  return Unit<double>{scale, mean == 0.0 ? 0.0 : 1.0 / mean};
}

template <class T>
FA_HD T next_momentum(T momentum, T grad, T decay, Unit<T> unit) {
  return decay * momentum + (grad * unit.first) * unit.second;
}

// The momentum on its storage grid.
template <class S, class T>
FA_HD T stored_momentum(T momentum) {
  return Storage<S>::round(momentum);
}

// A pixel that holds most of a gradient comes near the number of pixels, which can be beyond half precision. It stays
// at the largest number there: of an infinity, a later sum would make a NaN.
template <>
FA_HD float stored_momentum<half_t, float>(float momentum) {
  return Storage<half_t>::round(clip(momentum, -65504.0f, 65504.0f));
}

}  // namespace FA_ISA
}  // namespace fastattack
