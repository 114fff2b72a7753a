// Memory to arithmetic and back. Kernels see runs of at most BLOCK contiguous numbers in their arithmetic type: the
// tensor's own memory where that is what it holds, else a buffer on the stack.
#pragma once
#include <fastattack/storage.h>

#include "team.h"
#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace fastattack {
inline namespace FA_ISA {

struct Index {
  i64 at[4];
};

// How long a run may be: any length where every tensor is used in its own memory, else what a buffer holds.
template <class S, class... Views>
FA_HD i64 longest_run(const Views&... views) {
  bool own = sizeof(S) == sizeof(typename Storage<S>::real);
  return own && ((views.stride[4] == 1 || !views.data) && ...) ? (i64)1 << 62 : BLOCK;
}

// f(index, count, position) over the runs of the innermost dimension that make up [first, last) of a sample.
template <class F>
FA_HD void for_runs(const Shape& shape, i64 first, i64 last, i64 longest, F f) {
  const i64* size = shape.size;
  Index i;
  i64 rest = first;
  for (int d = 3; d >= 0; --d) {
    i.at[d] = rest % size[d];
    rest /= size[d];
  }
  while (first < last) {
    i64 n = size[3] - i.at[3];
    n = n < last - first ? n : last - first;
    n = n < longest ? n : longest;
    f(i, n, first);
    first += n;
    i.at[3] += n;
    for (int d = 3; d > 0 && i.at[d] == size[d]; --d) {
      i.at[d] = 0;
      ++i.at[d - 1];
    }
  }
}

template <class S>
FA_HD S* address(const View& view, i64 b, const Index& i) {
  const long long* s = view.stride;
  return (S*)view.data + (b * s[0] + i.at[0] * s[1] + i.at[1] * s[2] + i.at[2] * s[3] + i.at[3] * s[4]);
}

template <class S>
FA_HD void widen(const S* from, i64 stride, typename Storage<S>::real* to, i64 n) {
  for (i64 i = 0; i < n; ++i) to[i] = Storage<S>::load(from[i * stride]);
}

template <class S>
FA_HD void narrow(const typename Storage<S>::real* from, S* to, i64 stride, i64 n) {
  for (i64 i = 0; i < n; ++i) to[i * stride] = Storage<S>::store(from[i]);
}

// Runs of unit stride. Half precision has instructions of its own, which the compiler's vectoriser does not know.
template <class S>
FA_HD void widen_run(const S* from, typename Storage<S>::real* to, i64 n) {
  i64 i = 0;
#if defined(__F16C__)
  if constexpr (__is_same(S, half_t))
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(from + i))));
#endif
  widen(from + i, 1, to + i, n - i);
}

template <class S>
FA_HD void narrow_run(const typename Storage<S>::real* from, S* to, i64 n) {
  i64 i = 0;
#if defined(__F16C__)
  if constexpr (__is_same(S, half_t))
    for (; i + 8 <= n; i += 8) {  // the numbers lie on the grid; of a NaN only the sign is kept
      __m128i half = _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
      __m128i size = _mm_min_epu16(_mm_and_si128(half, _mm_set1_epi16(0x7fff)), _mm_set1_epi16(0x7e00));
      half = _mm_or_si128(size, _mm_and_si128(half, _mm_set1_epi16((short)0x8000)));
      _mm_storeu_si128((__m128i*)(to + i), half);
    }
#endif
  narrow(from + i, to + i, 1, n - i);
}

// A run of one tensor as numbers of the arithmetic type.
template <class S>
struct Run {
  using T = typename Storage<S>::real;
  alignas(64) T buffer[BLOCK];

  // Where a run is written that need not be read first.
  T* place(const View& view, i64 b, const Index& i, i64 n) {
    if constexpr (sizeof(S) == sizeof(T)) {
      if (view.stride[4] == 1 || n == 1) return (T*)address<S>(view, b, i);
    }
    return buffer;
  }
  T* open(const View& view, i64 b, const Index& i, i64 n) {
    T* own = place(view, b, i, n);
    if (own != buffer) return own;
    const S* from = address<S>(view, b, i);
    if (view.stride[4] == 1)
      widen_run(from, buffer, n);
    else
      read(from, view.stride[4], n);
    return buffer;
  }
  void close(const T* values, const View& view, i64 b, const Index& i, i64 n) {
    if (values != buffer) return;
    S* to = address<S>(view, b, i);
    if (view.stride[4] == 1)
      narrow_run(buffer, to, n);
    else
      write(to, view.stride[4], n);
  }

 private:
  // Not inline: a kernel opens many runs, and each copy of these loops costs the compiler as much as the kernel itself.
  __attribute__((noinline)) void read(const S* from, i64 stride, i64 n) {
    if (stride == 2)  // every second column
      widen(from, 2, buffer, n);
    else if (stride == 3)  // one colour of channels_last
      widen(from, 3, buffer, n);
    else
      widen(from, stride, buffer, n);
  }
  __attribute__((noinline)) void write(S* to, i64 stride, i64 n) const { narrow(buffer, to, stride, n); }
};

struct MaskRun {
  u8 buffer[BLOCK];
  const u8* open(const View& view, i64 b, const Index& i, i64 n) {
    if (!view.data) return nullptr;
    const u8* from = address<u8>(view, b, i);
    if (view.stride[4] == 1) return from;
    for (i64 k = 0; k < n; ++k) buffer[k] = from[k * view.stride[4]];
    return buffer;
  }
};

// Calls f with a value of the storage type that `dtype` names.
template <class F>
inline void with_storage(Dtype dtype, F f) {
  switch (dtype) {
    case Dtype::f32:
      return f(float{});
    case Dtype::f64:
      return f(double{});
    case Dtype::f16:
      return f(half_t{});
    case Dtype::bf16:
      return f(bfloat_t{});
  }
}

}  // namespace FA_ISA
}  // namespace fastattack
