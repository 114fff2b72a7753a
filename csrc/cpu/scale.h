// Powers of two that bring a float64 sample near 1, so that its squares stay in range. The squares
// of the other types stay in double's range as they are.
#pragma once
#include <fastattack/pgd_step.h>

#include "blocks.h"

namespace fastattack {
inline namespace FA_ISA {

template <class S>
double largest_in(const Shape& shape, const View& view, const View& mask, i64 b, i64 first, i64 last) {
  Run<S> run;
  MaskRun mask_run;
  double largest = 0;
  for_runs(shape, first, last, BLOCK, [&](const Index& i, i64 n, i64) {
    auto* x = run.open(view, b, i, n);
    const u8* m = mask_run.open(mask, b, i, n);
    for (i64 k = 0; k < n; ++k) {
      double a = magnitude((double)x[k]);
      if ((!m || m[k]) && a > largest) largest = a;
    }
  });
  return largest;
}

inline double scale_for(double largest) {
  bool usable = largest > 0 && largest < __builtin_inf();
  return usable ? power_of_two(-clip_int(exponent_of(largest) + 1, -1000, 1000)) : 1.0;
}

template <class S>
Scales step_scales(const Call& call, const Team& team, i64 b) {
  if constexpr (sizeof(S) != sizeof(double)) {
    (void)call, (void)team, (void)b;
    return Scales{1.0, 1.0};
  } else {
    // Each thread looks at the whole sample: float64 is the type of checks, not of speed.
    i64 n = call.shape.count();
    double adv = largest_in<S>(call.shape, call.adv, call.mask, b, 0, n);
    double origin = largest_in<S>(call.shape, call.origin, call.mask, b, 0, n);
    double grad = call.grad.data ? largest_in<S>(call.shape, call.grad, call.mask, b, 0, n) : 0.0;
    team.barrier();  // nobody writes adv before all have looked
    return Scales{scale_for(grad), scale_for(adv > origin ? adv : origin)};
  }
}

}  // namespace FA_ISA
}  // namespace fastattack
