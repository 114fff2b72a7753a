#include "make_kernel.h"
#include "pgd_step.cuh"

namespace fastattack {

std::vector<Kernel> pgd_step_kernels() {
  return {FA_EACH_STORAGE(pgd_step_linf_kernel), FA_EACH_STORAGE(pgd_step_sums_kernel),
          FA_EACH_STORAGE(pgd_step_l2_kernel)};
}

}  // namespace fastattack
