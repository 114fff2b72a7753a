#include "accumulate.cuh"
#include "make_kernel.h"

namespace fastattack {

std::vector<Kernel> accumulate_kernels() { return {FA_EACH_STORAGE(accumulate_kernel)}; }

}  // namespace fastattack
