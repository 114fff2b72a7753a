// What every other header stands on: the function qualifiers, fixed-width integers and bit casts.
// Compiled by the host compiler (once per instruction set), nvcc and NVRTC; NVRTC has no standard headers.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define FA_HD __host__ __device__ __forceinline__
#else
#define FA_HD inline __attribute__((always_inline))
#endif

// Each instruction set gets a namespace of its own, so that the linker never merges code built for different CPUs.
#ifndef FA_ISA
#define FA_ISA portable
#endif

namespace fastattack {
inline namespace FA_ISA {

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using i32 = int;
using u64 = unsigned long long;
using i64 = long long;

FA_HD u32 bits_of(float x) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(x);
#else
  u32 r;
  __builtin_memcpy(&r, &x, sizeof r);
  return r;
#endif
}

FA_HD float float_of(u32 x) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(x);
#else
  float r;
  __builtin_memcpy(&r, &x, sizeof r);
  return r;
#endif
}

FA_HD u64 bits_of(double x) {
#if defined(__CUDA_ARCH__)
  return (u64)__double_as_longlong(x);
#else
  u64 r;
  __builtin_memcpy(&r, &x, sizeof r);
  return r;
#endif
}

FA_HD double double_of(u64 x) {
#if defined(__CUDA_ARCH__)
  return __longlong_as_double((i64)x);
#else
  double r;
  __builtin_memcpy(&r, &x, sizeof r);
  return r;
#endif
}

FA_HD float root(float x) {
#if defined(__CUDA_ARCH__)
  return __fsqrt_rn(x);
#else
  return __builtin_sqrtf(x);
#endif
}

FA_HD double root(double x) {
#if defined(__CUDA_ARCH__)
  return __dsqrt_rn(x);
#else
  return __builtin_sqrt(x);
#endif
}

FA_HD float magnitude(float x) { return float_of(bits_of(x) & 0x7fffffffu); }
FA_HD double magnitude(double x) { return double_of(bits_of(x) & 0x7fffffffffffffffull); }

FA_HD float with_sign_of(float size, float x) { return float_of(bits_of(size) | (bits_of(x) & 0x80000000u)); }
FA_HD double with_sign_of(double size, double x) {
  return double_of(bits_of(size) | (bits_of(x) & 0x8000000000000000ull));
}

// The comparisons are written so that a NaN in x comes out as NaN: a wrong gradient must stay visible.
template <class T>
FA_HD T clip(T x, T low, T high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

}  // namespace FA_ISA
}  // namespace fastattack
