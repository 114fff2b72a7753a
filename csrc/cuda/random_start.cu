#include "make_kernel.h"
#include "random_start.cuh"

namespace fastattack {

std::vector<Kernel> random_start_kernels() {
  return {FA_EACH_STORAGE(random_start_linf_kernel), FA_EACH_STORAGE(random_start_sums_kernel),
          FA_EACH_STORAGE(random_start_l2_kernel)};
}

}  // namespace fastattack
