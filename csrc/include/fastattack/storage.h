// The four storage types and the arithmetic type each is computed in.
//
// `round<S>(x)` gives the number of type S nearest to x, still held in the arithmetic type, so that kernels can compare
// against the storage grid in registers. `step_back(s, delta)` is the neighbour of s on that grid against the direction
// of delta. No branches and no boolean algebra: compilers vectorise selects between numbers only.
#pragma once
#include "base.h"

namespace fastattack {
inline namespace FA_ISA {

struct half_t {
  u16 bits;
};
struct bfloat_t {
  u16 bits;
};

template <class S>
struct Storage;

// The bit pattern of s moved by 2^shift against delta: signs that differ mean away from zero (+), else towards it (-).
template <int shift>
FA_HD float moved_back(float s, float delta) {
  i32 differ = (i32)(bits_of(s) ^ bits_of(delta)) >> 31;
  return float_of(bits_of(s) - ((u32)(differ | 1) << shift));
}

template <>
struct Storage<float> {
  using real = float;
  static FA_HD float load(float s) { return s; }
  static FA_HD float store(float x) { return x; }
  static FA_HD float round(float x) { return x; }
  static FA_HD float step_back(float s, float delta) {
    return moved_back<0>(s, delta);  // never asked of s = 0: a float32 sum that rounds to zero is exact
  }
};

template <>
struct Storage<double> {
  using real = double;
  static FA_HD double load(double s) { return s; }
  static FA_HD double store(double x) { return x; }
  static FA_HD double round(double x) { return x; }
  static FA_HD double step_back(double s, double delta) {
    i64 differ = (i64)(bits_of(s) ^ bits_of(delta)) >> 63;
    return double_of(bits_of(s) - (u64)(differ | 1));
  }
};

template <>
struct Storage<bfloat_t> {
  using real = float;
  static FA_HD float load(bfloat_t s) { return float_of((u32)s.bits << 16); }
  static FA_HD bfloat_t store(float x) {  // x already lies on the grid
    return bfloat_t{(u16)(bits_of(x) >> 16)};
  }
  static FA_HD float round(float x) {  // to nearest, ties to even
    u32 b = bits_of(x);
    u32 r = (b + 0x7fffu + ((b >> 16) & 1u)) & 0xffff0000u;
    return x == x ? float_of(r) : float_of(0x7fc00000u);
  }
  static FA_HD float step_back(float s, float delta) {
    float beyond_zero = delta < 0.0f ? 0x1p-133f : -0x1p-133f;
    return s == 0.0f ? beyond_zero : moved_back<16>(s, delta);
  }
};

template <>
struct Storage<half_t> {
  using real = float;
  // Both ways without a branch: the exponent is re-biased by an exact multiplication, which also makes subnormals.
  static FA_HD float load(half_t s) {
    u32 sign = (u32)(s.bits & 0x8000u) << 16;
    u32 mag = (u32)(s.bits & 0x7fffu);
    float finite = float_of(mag << 13) * 0x1p112f;
    u32 special = 0x7f800000u | (mag << 13);
    u32 b = mag >= 0x7c00u ? special : bits_of(finite);
    return float_of(b | sign);
  }
  static FA_HD half_t store(float x) {  // x already lies on the grid
    u32 b = bits_of(x);
    u32 sign = (b >> 16) & 0x8000u;
    u32 mag = b & 0x7fffffffu;
    u32 finite = bits_of(float_of(mag) * 0x1p-112f) >> 13;
    u32 r = mag >= 0x7f800000u ? (mag > 0x7f800000u ? 0x7e00u : 0x7c00u) : finite;
    return half_t{(u16)(sign | r)};
  }
  // A sum with 3/2 of 2^13 times x's power of two (2^-14 at least) has the spacing of half precision at x.
  static FA_HD float round(float x) {
    u32 b = bits_of(x);
    i32 power = (i32)(b & 0x7f800000u);
    power = power > 0x38800000 ? power : 0x38800000;
    float grid = float_of((u32)power + (13u << 23 | 1u << 22));
    float r = (x + grid) - grid;
    r = magnitude(x) >= 65520.0f ? float_of(0x7f800000u) : r;
    return float_of(bits_of(r) | (b & 0x80000000u));
  }
  static FA_HD float step_back(float s, float delta) {
    float normal = moved_back<13>(s, delta);
    float small = s - (delta < 0.0f ? -0x1p-24f : 0x1p-24f);
    float largest = delta < 0.0f ? -65504.0f : 65504.0f;  // what is left of an infinite sum
    normal = magnitude(s) > 65504.0f ? largest : normal;
    return magnitude(s) <= 0x1p-14f ? small : normal;
  }
};

// origin + delta, rounded to the storage grid, never farther from origin than |delta|: the user's own check
// `(adv - origin).abs().max() <= eps` holds in the arithmetic type, without a tolerance.
template <class S, class T>
FA_HD T add_inward(T origin, T delta) {
  T s = Storage<S>::round(origin + delta);
  T back = Storage<S>::step_back(s, delta);
  return magnitude(s - origin) > magnitude(delta) ? back : s;
}

}  // namespace FA_ISA
}  // namespace fastattack
