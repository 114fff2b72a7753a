#include "distances.cuh"
#include "make_kernel.h"

namespace fastattack {

std::vector<Kernel> distances_kernels() {
  return {FA_EACH_STORAGE(distances_sums_kernel), FA_EACH_STORAGE(distances_kernel)};
}

}  // namespace fastattack
