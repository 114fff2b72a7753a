// What the kernels share: how the elements of a sample are walked, and how sums over a sample are made.
//
// Device code only, without standard or CUDA headers, so that NVRTC can take it. Every argument struct is a row of
// 8-byte words, which fastattack/ops/launch.py packs in the same order.
//
// The grid is one row of batch * tiles blocks: `tiles` blocks share one sample. Sums are made in double: each block
// leaves one partial, and the kernel that follows adds the partials of its sample in a fixed order. No atomics, so
// the same input gives the same bits every time.
#pragma once
#include "fastattack/storage.h"

#define FA_DEVICE __device__ __forceinline__

namespace fastattack {
inline namespace FA_ISA {

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
#define FA_KERNEL __global__ void __launch_bounds__(fastattack::THREADS)

// One number for all samples, or one for each.
struct PerSample {
  const double* values;  // [B] or null
  double value;

  FA_DEVICE double at(i64 sample) const { return values ? values[sample] : value; }
};

enum Walk : i64 { STRIDED = 0, FLAT = 1, VECTORS = 2 };  // VECTORS: flat, every sample on 16-byte lines, no mask

// K tensors of one shape; those that are written come first.
template <class S, int K>
struct Samples {
  S* data[K];
  const u8* mask;  // null: everything is on
  i64 batch, count, tiles, walk;
  i64 sizes[4];           // of one sample, innermost last
  i64 strides[K + 1][5];  // in elements: batch, then the four inner ones; the mask's come last

  FA_DEVICE i64 sample() const { return blockIdx.x / (u32)tiles; }
  FA_DEVICE i64 tile() const { return blockIdx.x % (u32)tiles; }
  FA_DEVICE bool first_thread() const { return tile() == 0 && threadIdx.x == 0; }
};

template <class S>
struct alignas(16) Pack {
  static constexpr int WIDTH = 16 / sizeof(S);
  S v[WIDTH];
};

template <class U>
FA_DEVICE void coordinates(U i, const i64 (&sizes)[4], i64 (&at)[4]) {
  for (int d = 3; d > 0; --d) {
    U size = (U)sizes[d], outer = i / size;
    at[d] = (i64)(i - outer * size);
    i = outer;
  }
  at[0] = (i64)i;
}

// Offsets of element `i` (in walking order) of each tensor, and of the mask last.
template <class S, int K>
FA_DEVICE void offsets(const Samples<S, K>& s, i64 sample, i64 i, i64 (&out)[K + 1]) {
  i64 at[4] = {0, 0, 0, i};
  if (s.walk == STRIDED) {
    if (s.count < ((i64)1 << 31)) {
      coordinates((u32)i, s.sizes, at);  // 32-bit division is several times cheaper
    } else {
      coordinates(i, s.sizes, at);
    }
  }
  for (int k = 0; k <= K; ++k) {
    const i64(&w)[5] = s.strides[k];
    out[k] = sample * w[0] + at[0] * w[1] + at[1] * w[2] + at[2] * w[3] + at[3] * w[4];
  }
}

// f(values, on) for every element of this block's tile; what it leaves in the first WRITTEN values is stored.
template <int WRITTEN, class S, int K, class F>
FA_DEVICE void visit_elements(const Samples<S, K>& s, F f) {
  using T = typename Storage<S>::real;
  for (i64 i = s.tile() * THREADS + threadIdx.x; i < s.count; i += s.tiles * THREADS) {
    i64 at[K + 1];
    offsets(s, s.sample(), i, at);
    T x[K];
    for (int k = 0; k < K; ++k) x[k] = Storage<S>::load(s.data[k][at[k]]);
    bool on = s.mask ? s.mask[at[K]] != 0 : true;
    f(x, on);
    for (int k = 0; k < WRITTEN; ++k) s.data[k][at[k]] = Storage<S>::store(x[k]);
  }
}

template <int WRITTEN, class S, int K, class F>
FA_DEVICE void visit_packs(const Samples<S, K>& s, F f) {
  using T = typename Storage<S>::real;
  constexpr int WIDTH = Pack<S>::WIDTH;
  Pack<S>* lines[K];
  for (int k = 0; k < K; ++k) lines[k] = reinterpret_cast<Pack<S>*>(s.data[k] + s.sample() * s.strides[k][0]);
  for (i64 i = s.tile() * THREADS + threadIdx.x; i < s.count / WIDTH; i += s.tiles * THREADS) {
    Pack<S> line[K];
    for (int k = 0; k < K; ++k) line[k] = lines[k][i];
    for (int j = 0; j < WIDTH; ++j) {
      T x[K];
      for (int k = 0; k < K; ++k) x[k] = Storage<S>::load(line[k].v[j]);
      f(x, true);
      for (int k = 0; k < WRITTEN; ++k) line[k].v[j] = Storage<S>::store(x[k]);
    }
    for (int k = 0; k < WRITTEN; ++k) lines[k][i] = line[k];
  }
}

template <int WRITTEN, class S, int K, class F>
FA_DEVICE void visit(const Samples<S, K>& s, F f) {
  if (s.walk == VECTORS) {
    visit_packs<WRITTEN>(s, f);
  } else {
    visit_elements<WRITTEN>(s, f);
  }
}

// adv = f(values, on)
template <class S, int K, class F>
FA_DEVICE void map(const Samples<S, K>& s, F f) {
  using T = typename Storage<S>::real;
  visit<1>(s, [&](T(&x)[K], bool on) { x[0] = f(x, on); });
}

// A struct of sums is a row of doubles.
template <class Sums>
FA_DEVICE void add(Sums& to, const Sums& from) {
  double* a = reinterpret_cast<double*>(&to);
  const double* b = reinterpret_cast<const double*>(&from);
  for (int k = 0; k < (int)(sizeof(Sums) / sizeof(double)); ++k) a[k] += b[k];
}

template <class Sums>
FA_DEVICE Sums shuffled_down(const Sums& from, int lanes) {
  Sums out;
  double* a = reinterpret_cast<double*>(&out);
  const double* b = reinterpret_cast<const double*>(&from);
  for (int k = 0; k < (int)(sizeof(Sums) / sizeof(double)); ++k) a[k] = __shfl_down_sync(0xffffffffu, b[k], lanes);
  return out;
}

// The sum over the threads of a block, known to all of them.
template <class Sums>
FA_DEVICE Sums block_sum(Sums mine) {
  __shared__ Sums warps[WARPS];
  for (int lanes = 16; lanes > 0; lanes /= 2) add(mine, shuffled_down(mine, lanes));
  __syncthreads();  // a former call may still be reading
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = mine;
  __syncthreads();
  Sums total = warps[0];
  for (int w = 1; w < WARPS; ++w) add(total, warps[w]);
  return total;
}

// Adds up what the threads of this block have, for partials[sample, tile].
template <class Sums, class S, int K>
FA_DEVICE void leave_partial(const Samples<S, K>& s, Sums* partials, const Sums& mine) {
  Sums total = block_sum(mine);
  if (threadIdx.x == 0) partials[s.sample() * s.tiles + s.tile()] = total;
}

// Adds terms(values) over the elements that are on, and leaves this block's sum in partials[sample, tile].
template <class Sums, class S, int K, class F>
FA_DEVICE void sum_tile(const Samples<S, K>& s, Sums* partials, F terms) {
  using T = typename Storage<S>::real;
  Sums mine = {};
  visit<0>(s, [&](const T(&x)[K], bool on) {
    if (on) add(mine, terms(x));
  });
  leave_partial(s, partials, mine);
}

// The sum over `sample`, known to every thread of the block.
template <class Sums>
FA_DEVICE Sums sum_partials(const Sums* partials, i64 sample, i64 tiles) {
  Sums mine = {};
  for (i64 t = threadIdx.x; t < tiles; t += THREADS) add(mine, partials[sample * tiles + t]);
  return block_sum(mine);
}

// Computed by one thread, known to all: double-precision division is dear on many GPUs.
template <class F>
FA_DEVICE auto once(F f) -> decltype(f()) {
  __shared__ decltype(f()) shared;
  __syncthreads();
  if (threadIdx.x == 0) shared = f();
  __syncthreads();
  return shared;
}

}  // namespace FA_ISA
}  // namespace fastattack
