#include "make_kernel.h"
#include "preserve_noise.cuh"

namespace fastattack {

std::vector<Kernel> preserve_noise_kernels() {
  return {FA_EACH_STORAGE(preserve_noise_moments_kernel), FA_EACH_STORAGE(preserve_noise_round_kernel),
          FA_EACH_STORAGE(preserve_noise_linf_kernel), FA_EACH_STORAGE(preserve_noise_l2_kernel)};
}

}  // namespace fastattack
