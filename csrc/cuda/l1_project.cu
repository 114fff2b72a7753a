#include "l1_project.cuh"
#include "make_kernel.h"

namespace fastattack {

std::vector<Kernel> l1_project_kernels() {
  return {FA_EACH_STORAGE(l1_project_sums_kernel), FA_EACH_STORAGE(l1_project_round_kernel),
          FA_EACH_STORAGE(l1_project_kernel)};
}

}  // namespace fastattack
