#include "make_kernel.h"
#include "momentum_step.cuh"

namespace fastattack {

std::vector<Kernel> momentum_step_kernels() {
  return {FA_EACH_STORAGE(momentum_step_magnitudes_kernel), FA_EACH_STORAGE(momentum_step_linf_kernel),
          FA_EACH_STORAGE(momentum_step_sums_kernel)};
}

}  // namespace fastattack
