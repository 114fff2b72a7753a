#include "l1_step.cuh"
#include "make_kernel.h"

namespace fastattack {

std::vector<Kernel> l1_step_kernels() {
  return {FA_EACH_STORAGE(l1_step_count_kernel), FA_EACH_STORAGE(l1_step_kernel)};
}

}  // namespace fastattack
