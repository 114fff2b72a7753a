// A kernel as the module sees it: a name, the size of its one argument, and how to launch it.
#pragma once
#include <cuda_runtime.h>

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace fastattack {

struct Kernel {
  std::string name;  // as in "pgd_step_linf_kernel<half_t>"
  size_t bytes;
  std::function<cudaError_t(unsigned blocks, const void* argument, cudaStream_t)> launch;
};

std::vector<Kernel> pgd_step_kernels();
std::vector<Kernel> project_kernels();
std::vector<Kernel> preserve_noise_kernels();
std::vector<Kernel> noise_stats_kernels();
std::vector<Kernel> distances_kernels();
std::vector<Kernel> random_start_kernels();
std::vector<Kernel> typical_noise_kernels();
std::vector<Kernel> momentum_step_kernels();
std::vector<Kernel> accumulate_kernels();
std::vector<Kernel> apgd_step_kernels();
std::vector<Kernel> zero_mean_step_kernels();
std::vector<Kernel> quantise_kernels();
std::vector<Kernel> l1_project_kernels();
std::vector<Kernel> l1_step_kernels();
std::vector<Kernel> diffusion_step_kernels();

}  // namespace fastattack
