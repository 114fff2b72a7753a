#include "diffusion_step.cuh"
#include "make_kernel.h"

namespace fastattack {

std::vector<Kernel> diffusion_step_kernels() { return {FA_EACH_STORAGE(diffusion_step_kernel)}; }

}  // namespace fastattack
