// Sums of float32 terms at the speed of the memory: sixteen lanes in float32 for a few vectors, then into double.
//
// A square of float32 can overflow or vanish in float32. Whoever sums here looks at the result (`in_range`) and sums
// again in double where it says no, which images and their gradients never make it say.
#pragma once
#include <fastattack/base.h>

namespace fastattack {
inline namespace FA_ISA {

constexpr int LANES = 16;
constexpr int HOLD = 16;      // vectors summed in float32: a relative error below 1e-6 even in the worst case
constexpr int HOLD_NORM = 4;  // where a norm meets a radius: half that error, 1.2e-7, lies inside SHRINK_MARGIN

typedef float Lanes __attribute__((vector_size(LANES * sizeof(float))));
typedef int LaneInts __attribute__((vector_size(LANES * sizeof(int))));
typedef double HalfLanes __attribute__((vector_size(LANES / 2 * sizeof(double))));
typedef float HalfFloats __attribute__((vector_size(LANES / 2 * sizeof(float))));

FA_HD Lanes load_lanes(const float* p) {
  Lanes x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}

FA_HD Lanes lane_magnitude(Lanes x) { return (Lanes)((LaneInts)x & 0x7fffffff); }

// The larger of two magnitudes, compared as integers: one cycle, and a NaN is the largest of all.
FA_HD Lanes larger_magnitude(Lanes a, Lanes b) {
  LaneInts x = (LaneInts)a, y = (LaneInts)b;
  return (Lanes)(x > y ? x : y);
}

// Adds the lanes to a double accumulator of half as many.
FA_HD void add_lanes(HalfLanes& total, Lanes x) {
  HalfFloats half[2];
  __builtin_memcpy(half, &x, sizeof x);
  total += __builtin_convertvector(half[0], HalfLanes) + __builtin_convertvector(half[1], HalfLanes);
}

FA_HD double across(HalfLanes x) {
  double sum = 0;
  for (int i = 0; i < LANES / 2; ++i) sum += x[i];
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

// Asks for the lines of FETCH numbers, far enough ahead to be there in time; beyond the end it is a request for
// nothing.
constexpr i64 FETCH = 256;
template <class T>
FA_HD void fetch_ahead(const T* p) {
  constexpr i64 AHEAD = 2048, LINE = 64;
  for (i64 i = 0; i < FETCH * (i64)sizeof(T); i += LINE) __builtin_prefetch((const char*)p + AHEAD + i);
}

constexpr double SMALLEST_RADIUS = 1e-10;  // below, a norm that decides whether a point is inside is summed in double

// Whether a sum of `count` squares was safe to make in float32: neither infinite nor so small that terms vanished.
FA_HD bool in_range(double squares, double count) { return squares < 1e300 && squares > count * 1e-30; }

}  // namespace FA_ISA
}  // namespace fastattack
