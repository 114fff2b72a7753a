#include "make_kernel.h"
#include "zero_mean_step.cuh"

namespace fastattack {

std::vector<Kernel> zero_mean_step_kernels() {
  return {FA_EACH_STORAGE(zero_mean_step_sums_kernel), FA_EACH_STORAGE(zero_mean_step_kernel)};
}

}  // namespace fastattack
