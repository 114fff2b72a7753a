// The ceiling that the kernels are measured against: as many streams as a step (read three, write one), next to no
// work.
#include "blocks.h"
#include "isa.h"

namespace fastattack {
inline namespace FA_ISA {

void triad(float* a, const float* b, const float* c, long long count, int threads) {
  Shape shape{1, {1, 1, 1, count}};
  for_elements(shape, threads, [&](i64, i64 first, i64 last) {
#pragma omp simd
    for (i64 i = first; i < last; ++i) a[i] = a[i] * 0.5f + (b[i] + c[i]);
  });
}

}  // namespace FA_ISA
}  // namespace fastattack
