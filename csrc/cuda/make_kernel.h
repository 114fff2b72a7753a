// Makes the table entries of kernels.h; host code, compiled by nvcc.
#pragma once
#include <cstring>

#include "common.cuh"
#include "kernels.h"

namespace fastattack {

template <class Argument>
Kernel make_kernel(const char* name, void (*kernel)(Argument)) {
  static_assert(sizeof(Argument) % 8 == 0 && alignof(Argument) == 8, "arguments are rows of 8-byte words");
  return {name, sizeof(Argument), [kernel](unsigned blocks, const void* bytes, cudaStream_t stream) {
            Argument argument;
            std::memcpy(static_cast<void*>(&argument), bytes, sizeof argument);
            void* list[] = {&argument};
            return cudaLaunchKernel(kernel, dim3(blocks), dim3(THREADS), list, 0, stream);
          }};
}

#define FA_EACH_STORAGE(kernel)                                                                   \
  make_kernel(#kernel "<float>", kernel<float>), make_kernel(#kernel "<double>", kernel<double>), \
      make_kernel(#kernel "<half_t>", kernel<half_t>), make_kernel(#kernel "<bfloat_t>", kernel<bfloat_t>)

}  // namespace fastattack
