#include "make_kernel.h"
#include "project.cuh"

namespace fastattack {

std::vector<Kernel> project_kernels() {
  return {FA_EACH_STORAGE(project_linf_kernel), FA_EACH_STORAGE(project_sums_kernel),
          FA_EACH_STORAGE(project_l2_kernel)};
}

}  // namespace fastattack
