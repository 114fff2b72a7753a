#include "apgd_step.cuh"
#include "make_kernel.h"

namespace fastattack {

std::vector<Kernel> apgd_step_kernels() {
  return {FA_EACH_STORAGE(apgd_step_linf_kernel), FA_EACH_STORAGE(apgd_step_sums_kernel),
          FA_EACH_STORAGE(apgd_step_measure_kernel), FA_EACH_STORAGE(apgd_step_l2_kernel)};
}

}  // namespace fastattack
