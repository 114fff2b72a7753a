#include "make_kernel.h"
#include "quantise.cuh"

namespace fastattack {

std::vector<Kernel> quantise_kernels() { return {FA_EACH_STORAGE(quantise_kernel)}; }

}  // namespace fastattack
