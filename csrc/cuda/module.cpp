// fastattack._cuda: launches a kernel by name. Pointers, sizes, strides and the stream come as plain integers, packed
// by fastattack/ops/launch.py. The caller has made the device current, and no memory is allocated here.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "kernels.h"

namespace py = pybind11;

namespace fastattack {
namespace {

std::string describe(cudaError_t error) {
  int driver = 0;
  bool missing = cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0;
  std::string text = cudaGetErrorString(error);
  return missing ? "no CUDA driver (" + text + ")" : text;
}

const std::unordered_map<std::string, Kernel>& kernels() {
  static const auto table = [] {
    std::unordered_map<std::string, Kernel> made;
    for (auto list :
         {pgd_step_kernels, project_kernels, preserve_noise_kernels, noise_stats_kernels, random_start_kernels,
          typical_noise_kernels, momentum_step_kernels, accumulate_kernels, apgd_step_kernels, zero_mean_step_kernels,
          quantise_kernels, l1_project_kernels, l1_step_kernels, distances_kernels, diffusion_step_kernels}) {
      for (Kernel& kernel : list()) made.emplace(kernel.name, std::move(kernel));
    }
    return made;
  }();
  return table;
}

void launch(const std::string& name, int64_t blocks, std::string_view argument, uintptr_t stream) {
  auto found = kernels().find(name);
  if (found == kernels().end()) throw std::invalid_argument("no kernel is called " + name);
  const Kernel& kernel = found->second;
  if (argument.size() != kernel.bytes) {
    throw std::invalid_argument(name + " takes " + std::to_string(kernel.bytes) + " bytes, got " +
                                std::to_string(argument.size()));
  }
  if (blocks < 1 || blocks > std::numeric_limits<int32_t>::max()) {
    throw std::invalid_argument(name + ": " + std::to_string(blocks) + " blocks do not make a grid");
  }
  cudaError_t error = kernel.launch((unsigned)blocks, argument.data(), reinterpret_cast<cudaStream_t>(stream));
  if (error != cudaSuccess) {
    cudaGetLastError();  // so that the next call does not report it again
    throw std::runtime_error(name + ": " + describe(error));
  }
}

std::pair<bool, std::string> available() {
  int count = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return {true, ""};
  cudaGetLastError();
  return {false, error == cudaSuccess ? "no CUDA device" : describe(error)};
}

std::vector<std::string> names() {
  std::vector<std::string> out;
  for (const auto& entry : kernels()) out.push_back(entry.first);
  return out;
}

}  // namespace
}  // namespace fastattack

PYBIND11_MODULE(_cuda, m) {
  m.def("launch", &fastattack::launch, py::arg("kernel"), py::arg("blocks"), py::arg("argument"), py::arg("stream"),
        py::call_guard<py::gil_scoped_release>());
  m.def("available", &fastattack::available, "(whether kernels can run here, why not)");
  m.def("names", &fastattack::names);
}
