#include "make_kernel.h"
#include "typical_noise.cuh"

namespace fastattack {

std::vector<Kernel> typical_noise_kernels() {
  return {FA_EACH_STORAGE(typical_noise_sums_kernel), FA_EACH_STORAGE(typical_noise_kernel)};
}

}  // namespace fastattack
