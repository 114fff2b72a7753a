// Sums of float32 terms at the speed of the memory: sixteen lanes in float32 for a few vectors, then into double.
//
// A square of float32 can overflow or vanish in float32. Whoever sums here looks at the result (`in_range`) and sums
// again in double where it says no, which images and their gradients never make it say.
#pragma once
#include <fastattack/base.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace fastattack {
inline namespace FA_ISA {

constexpr int LANES = 16;
constexpr int HOLD = 16;      // vectors summed in float32: a relative error below 1e-6 even in the worst case
constexpr int HOLD_NORM = 4;  // where a norm meets a radius: half that error, 1.2e-7, lies inside SHRINK_MARGIN

// What one register holds. A vector of more than that would live in memory: sums would wait for their own stores.
#if defined(__AVX512F__)
constexpr int FLOATS = 16;
#elif defined(__AVX2__)
constexpr int FLOATS = 8;
#else
constexpr int FLOATS = 4;
#endif
constexpr int PARTS = LANES / FLOATS;

typedef float Floats __attribute__((vector_size(FLOATS * sizeof(float))));
typedef int Ints __attribute__((vector_size(FLOATS * sizeof(int))));
typedef double Doubles __attribute__((vector_size(FLOATS * sizeof(float))));

struct Lanes {
  Floats part[PARTS];
  float operator[](int lane) const { return part[lane / FLOATS][lane % FLOATS]; }
};
struct HalfLanes {
  Doubles part[PARTS];
};

template <class Part>
FA_HD Lanes by_part(Part part) {
  Lanes r;
#pragma GCC unroll 4
  for (int k = 0; k < PARTS; ++k) r.part[k] = part(k);
  return r;
}

FA_HD Lanes operator+(Lanes a, Lanes b) {
  return by_part([&](int k) { return a.part[k] + b.part[k]; });
}
FA_HD Lanes operator-(Lanes a, Lanes b) {
  return by_part([&](int k) { return a.part[k] - b.part[k]; });
}
FA_HD Lanes operator-(Lanes a, float b) {
  return by_part([&](int k) { return a.part[k] - b; });
}
FA_HD Lanes operator*(Lanes a, Lanes b) {
  return by_part([&](int k) { return a.part[k] * b.part[k]; });
}
FA_HD void operator+=(Lanes& a, Lanes b) { a = a + b; }

FA_HD Lanes load_lanes(const float* p) {
  return by_part([&](int k) {
    Floats x;
    __builtin_memcpy(&x, p + k * FLOATS, sizeof x);
    return x;
  });
}

FA_HD Lanes lane_magnitude(Lanes x) {
  return by_part([&](int k) { return (Floats)((Ints)x.part[k] & 0x7fffffff); });
}

// The larger of two magnitudes, compared as integers: one cycle, and a NaN is the largest of all.
FA_HD Lanes larger_magnitude(Lanes a, Lanes b) {
  return by_part([&](int k) {
    Ints x = (Ints)a.part[k], y = (Ints)b.part[k];
    return (Floats)(x > y ? x : y);
  });
}

// The lower or upper half of a register in double.
template <int half>
FA_HD Doubles widen_half(Floats x) {
#if defined(__AVX512F__)
  return (Doubles)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)x, half));
#elif defined(__AVX2__)
  return (Doubles)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)x, half));
#elif defined(__SSE2__)
  return (Doubles)_mm_cvtps_pd(half ? _mm_movehl_ps((__m128)x, (__m128)x) : (__m128)x);
#else
  Doubles r;
  for (int l = 0; l < FLOATS / 2; ++l) r[l] = (double)x[half * FLOATS / 2 + l];
  return r;
#endif
}

// Adds the lanes to a double accumulator of half as many.
FA_HD void add_lanes(HalfLanes& total, Lanes x) {
#pragma GCC unroll 4
  for (int k = 0; k < PARTS; ++k) total.part[k] += widen_half<0>(x.part[k]) + widen_half<1>(x.part[k]);
}

FA_HD HalfLanes operator+(HalfLanes a, const HalfLanes& b) {
  for (int k = 0; k < PARTS; ++k) a.part[k] += b.part[k];
  return a;
}

FA_HD double across(const HalfLanes& x) {
  double sum = 0;
  for (int k = 0; k < PARTS; ++k)
    for (int l = 0; l < FLOATS / 2; ++l) sum += x.part[k][l];
  return sum;
}

// group(i) for each whole group of HOLD_NORM vectors in n elements; returns where the rest begins.
template <class Group>
FA_HD i64 for_groups(i64 n, Group group) {
  constexpr i64 SIZE = HOLD_NORM * LANES;
  i64 i = 0;
  for (; i + SIZE <= n; i += SIZE) group(i);
  return i;
}

// Groups of HOLD vectors of one tensor, read in four places at a time: a core asks for more lines at once than the
// prefetcher of one stream does. group(i, stride): four vectors at each of i, i + stride, i + 2 stride and i + 3
// stride.
template <class Group>
FA_HD i64 for_groups_in_four(i64 n, Group group) {
  constexpr i64 SHARE = HOLD / 4 * LANES;
  i64 stride = n / (4 * SHARE) * SHARE;
  for (i64 i = 0; i < stride; i += SHARE) group(i, stride);
  return 4 * stride;
}

// Asks for the lines of FETCH numbers, far enough ahead to be there in time, where a run has that much left: what lies
// beyond a run is often nothing that will be needed.
constexpr i64 FETCH = 256;
template <class T>
FA_HD void fetch_ahead(const T* p, i64 left) {
#ifdef __AVX512F__  // measured: helps an Intel CPU with AVX-512; costs an AMD CPU without it a quarter of a linf step
  constexpr i64 AHEAD = 2048, LINE = 64;
  if (left * (i64)sizeof(T) <= AHEAD) return;
  for (i64 i = 0; i < FETCH * (i64)sizeof(T); i += LINE) __builtin_prefetch((const char*)p + AHEAD + i);
#else
  (void)p, (void)left;
#endif
}

constexpr double SMALLEST_RADIUS = 1e-10;  // below, a norm that decides whether a point is inside is summed in double

// Whether a sum of `count` squares was safe to make in float32: neither infinite nor so small that terms vanished.
FA_HD bool in_range(double squares, double count) { return squares < 1e300 && squares > count * 1e-30; }

}  // namespace FA_ISA
}  // namespace fastattack
