// Lets g++ compile csrc/cuda for the host: one fiber for each thread of a block, blocks one after another.
//
// Barriers and warp shuffles hand control to the next fiber; a block whose threads do not all arrive at the same kind
// of barrier is reported as a launch error, and so is a grid or block that no GPU would take. Since blocks of one
// launch run one after another, a test can run them backwards and see whether they depend on each other.
#pragma once
#include <cstddef>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(threads)
#define __shared__ static

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

extern uint3 threadIdx, blockIdx;

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719
};
using cudaStream_t = struct FakeStream*;

namespace emulator {
// Waits for all threads of the block; `kind` tells barriers from shuffles.
void barrier(char kind);
char* exchange(unsigned thread);  // 8 bytes for each thread
cudaError_t run(dim3 grid, dim3 block, void (*body)(void*), void* context);
}  // namespace emulator

inline void __syncthreads() { emulator::barrier('b'); }

inline double __shfl_down_sync(unsigned, double value, unsigned lanes) {
  std::memcpy(emulator::exchange(threadIdx.x), &value, sizeof value);
  emulator::barrier('s');
  unsigned lane = threadIdx.x % 32, from = lane + lanes < 32 ? threadIdx.x + lanes : threadIdx.x;
  std::memcpy(&value, emulator::exchange(from), sizeof value);
  emulator::barrier('s');
  return value;
}

template <class U>
U atomicAdd(U* at, U value) {  // threads take turns at barriers alone
  U before = *at;
  *at = before + value;
  return before;
}

template <class Argument>
cudaError_t cudaLaunchKernel(void (*kernel)(Argument), dim3 grid, dim3 block, void** arguments, size_t, cudaStream_t) {
  struct Call {
    void (*kernel)(Argument);
    const Argument* argument;
  } call = {kernel, static_cast<const Argument*>(arguments[0])};
  auto body = [](void* context) {
    const Call& call = *static_cast<const Call*>(context);
    call.kernel(*call.argument);
  };
  return emulator::run(grid, block, body, &call);
}

cudaError_t cudaGetLastError();
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaGetDeviceCount(int* count);
const char* cudaGetErrorString(cudaError_t error);
