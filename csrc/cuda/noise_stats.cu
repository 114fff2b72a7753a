#include "make_kernel.h"
#include "noise_stats.cuh"

namespace fastattack {

std::vector<Kernel> noise_stats_kernels() {
  return {FA_EACH_STORAGE(noise_stats_sums_kernel), FA_EACH_STORAGE(noise_stats_kernel)};
}

}  // namespace fastattack
