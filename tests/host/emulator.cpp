// The fibers behind cuda_shim.h. They are started with ucontext and switched with setjmp, which makes no system call.
#include <setjmp.h>
#include <ucontext.h>

#include <mutex>
#include <vector>

#include "cuda_shim.h"

uint3 threadIdx, blockIdx;

namespace emulator {
namespace {

constexpr unsigned MAX_THREADS = 1024;
constexpr size_t STACK = 64 << 10;
constexpr char FINISHED = 'f';

struct Fiber {
  std::vector<char> stack = std::vector<char>(STACK);
  ucontext_t start;
  jmp_buf place;
  bool started;
  char waits;  // the kind of barrier it stands at, or FINISHED
};

std::vector<Fiber> fibers(MAX_THREADS);
char exchanged[MAX_THREADS][8];
jmp_buf scheduler;
unsigned current;
bool backwards, driver = true;
void (*run_body)(void*);
void* run_context;

void yield(char kind) {
  fibers[current].waits = kind;
  if (!_setjmp(fibers[current].place)) _longjmp(scheduler, 1);
}

void enter() {  // a fiber lives through all blocks of a launch
  for (;;) {
    run_body(run_context);
    yield(FINISHED);
  }
}

void resume(unsigned thread) {
  Fiber& fiber = fibers[thread];
  current = thread;
  threadIdx = {thread, 0, 0};
  if (_setjmp(scheduler)) return;
  if (fiber.started) _longjmp(fiber.place, 1);
  fiber.started = true;
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = fiber.stack.data();
  fiber.start.uc_stack.ss_size = STACK;
  fiber.start.uc_link = nullptr;
  makecontext(&fiber.start, enter, 0);
  setcontext(&fiber.start);
}

// Runs every thread to its next barrier, again and again. False if they disagree on which barrier that is.
bool run_block(unsigned threads) {
  do {
    for (unsigned i = 0; i < threads; ++i) resume(backwards ? threads - 1 - i : i);
    for (unsigned i = 1; i < threads; ++i) {
      if (fibers[i].waits != fibers[0].waits) return false;
    }
  } while (fibers[0].waits != FINISHED);
  return true;
}

}  // namespace

void barrier(char kind) { yield(kind); }

char* exchange(unsigned thread) { return exchanged[thread]; }

cudaError_t run(dim3 grid, dim3 block, void (*body)(void*), void* context) {
  static std::mutex one_launch;
  std::lock_guard<std::mutex> lock(one_launch);
  if (grid.x < 1 || grid.x > 0x7fffffffu || block.x < 1 || block.x > MAX_THREADS) return cudaErrorInvalidConfiguration;
  if (!driver) return cudaErrorInvalidValue;
  run_body = body;
  run_context = context;
  for (Fiber& fiber : fibers) fiber.started = false;
  for (unsigned i = 0; i < grid.x; ++i) {
    blockIdx = {backwards ? grid.x - 1 - i : i, 0, 0};
    if (!run_block(block.x)) return cudaErrorLaunchFailure;
  }
  return cudaSuccess;
}

}  // namespace emulator

cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) {
  *version = emulator::driver ? 13000 : 0;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = emulator::driver ? 1 : 0;
  return emulator::driver ? cudaSuccess : cudaErrorInvalidValue;
}
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaErrorLaunchFailure:
      return "the threads of a block stand at different barriers";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    default:
      return "invalid value";
  }
}

// For the tests: the order of blocks and threads, and a machine without a driver.
#define FA_EXPORT extern "C" __attribute__((visibility("default")))
FA_EXPORT void emulator_backwards(int on) { emulator::backwards = on != 0; }
FA_EXPORT void emulator_driver(int on) { emulator::driver = on != 0; }
