// One table of kernels for each instruction set; compiled with the same flags as the kernels it names.
#include "isa.h"

#define FA_STRING(x) #x
#define FA_NAME(x) FA_STRING(x)
#define FA_JOIN(a, b) a##b
#define FA_TABLE(isa) FA_JOIN(kernels_, isa)

namespace fastattack {

extern const Kernels FA_TABLE(FA_ISA);
// clang-format off
const Kernels FA_TABLE(FA_ISA) = {
    FA_NAME(FA_ISA),
    FA_ISA::pgd_step,
    FA_ISA::project,
    FA_ISA::preserve_noise,
    FA_ISA::noise_stats,
    FA_ISA::distances,
    FA_ISA::random_start,
    FA_ISA::typical_noise,
    FA_ISA::momentum_step,
    FA_ISA::accumulate,
    FA_ISA::apgd_step,
    FA_ISA::zero_mean_step,
    FA_ISA::quantise,
    FA_ISA::l1_project,
    FA_ISA::l1_step,
    FA_ISA::diffusion_step,
    FA_ISA::triad,
};
// clang-format on

}  // namespace fastattack
