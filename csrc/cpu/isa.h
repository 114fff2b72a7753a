// The kernels of one instruction set; this header is compiled once for each, with FA_ISA naming it.
#pragma once
#include <fastattack/base.h>

#include "calls.h"

namespace fastattack {
inline namespace FA_ISA {

void pgd_step(const Call& call);
void project(const Call& call);
void preserve_noise(const Call& call);
void noise_stats(const StatsCall& call);
void distances(const DistancesCall& call);
void random_start(const StartCall& call);
void typical_noise(const NoiseCall& call);
void momentum_step(const MomentumCall& call);
void accumulate(const AccumulateCall& call);
void apgd_step(const ApgdCall& call);
void zero_mean_step(const Call& call);
void quantise(const QuantiseCall& call);
void l1_project(const Call& call);
void l1_step(const L1StepCall& call);
void diffusion_step(const DiffusionCall& call);
void triad(float* a, const float* b, const float* c, long long count, int threads);

}  // namespace FA_ISA
}  // namespace fastattack
