#include <fastattack/distances.h>

#include "blocks.h"
#include "isa.h"

namespace fastattack {
inline namespace FA_ISA {

FA_HD void accumulate(DistanceSums& into, const DistanceSums& from) {
  into.square += from.square, into.shrunk += from.shrunk, into.grown += from.grown;
  into.absolute += from.absolute;
  into.largest = from.largest > into.largest ? from.largest : into.largest;
}

namespace {

// In double: two conversions for eight bytes still keep up with the memory.
template <class T>
DistanceSums sum_run(const T* a, const T* b, i64 n) {
  double square = 0, shrunk = 0, grown = 0, absolute = 0, largest = 0;
#pragma omp simd reduction(+ : square, shrunk, grown, absolute) reduction(max : largest)
  for (i64 i = 0; i < n; ++i) {
    DistanceSums t = distance_terms(a[i], b[i]);
    square += t.square, shrunk += t.shrunk, grown += t.grown, absolute += t.absolute;
    largest = t.largest > largest ? t.largest : largest;
  }
  return DistanceSums{square, shrunk, grown, absolute, largest};
}

template <class S>
void distances_all(const DistancesCall& call) {
  using T = typename Storage<S>::real;
  Segments segments(call.shape.count());
  i64 longest = longest_run<S>(call.a, call.b);
  for_samples<DistanceSums>(call.shape, call.threads, [&](Team& team, Partials<DistanceSums>& partials, i64 s) {
    Run<S> a, b;
    DistanceSums sums = team_sum(team, partials, segments, [&](int segment) {
      DistanceSums total{0, 0, 0, 0, 0};
      for_runs(call.shape, segments.first(segment), segments.last(segment), longest, [&](const Index& i, i64 n, i64) {
        const T* left = a.open(call.a, s, i, n);
        accumulate(total, sum_run(left, (const T*)b.open(call.b, s, i, n), n));
      });
      return total;
    });
    if (team.rank == 0) finish_distances(sums, (double)segments.count, call.out + s * DISTANCES);
  });
}

}  // namespace

void distances(const DistancesCall& call) {
  with_storage(call.dtype, [&](auto s) { distances_all<decltype(s)>(call); });
}

}  // namespace FA_ISA
}  // namespace fastattack
