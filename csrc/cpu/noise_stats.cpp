#include <fastattack/noise_stats.h>

#include "blocks.h"
#include "isa.h"
#include "scale.h"

namespace fastattack {
inline namespace FA_ISA {

FA_HD void accumulate(NoiseSums& into, const NoiseSums& from) {
  into.sum += from.sum;
  into.square += from.square;
  into.absolute += from.absolute;
  into.raw_square += from.raw_square;
  into.largest = from.largest > into.largest ? from.largest : into.largest;
}

namespace {

template <class T>
NoiseSums sum_run(const T* noise, i64 n, double mean, double scale) {
  double sum = 0, square = 0, absolute = 0, raw_square = 0, largest = 0;
#pragma omp simd reduction(+ : sum, square, absolute, raw_square) reduction(max : largest)
  for (i64 i = 0; i < n; ++i) {
    NoiseSums t = noise_terms((double)noise[i], mean, scale);
    sum += t.sum, square += t.square, absolute += t.absolute, raw_square += t.raw_square;
    largest = t.largest > largest ? t.largest : largest;
  }
  return NoiseSums{sum, square, absolute, raw_square, largest};
}

template <class S>
void stats_all(const StatsCall& call) {
  Segments segments(call.shape.count());
  View none{nullptr, {}};
  for_samples<NoiseSums>(call.shape, call.threads, [&](Team& team, Partials<NoiseSums>& partials, i64 b) {
    Run<S> noise;
    double scale = 1.0, mean = call.mean[b];
    if constexpr (sizeof(S) == sizeof(double))
      scale = scale_for(largest_in<S>(call.shape, call.noise, none, b, 0, segments.count));
    NoiseSums sums = team_sum(team, partials, segments, [&](int s) {
      NoiseSums total{0, 0, 0, 0, 0};
      for_runs(call.shape, segments.first(s), segments.last(s), [&](const Index& i, i64 n, i64) {
        accumulate(total, sum_run(noise.open(call.noise, b, i, n), n, mean, scale));
      });
      return total;
    });
    if (team.rank == 0)
      finish_noise_stats(sums, (double)segments.count, mean, call.sigma[b], scale, call.out + b * NOISE_STATS);
  });
}

}  // namespace

void noise_stats(const StatsCall& call) {
  with_storage(call.dtype, [&](auto s) { stats_all<decltype(s)>(call); });
}

}  // namespace FA_ISA
}  // namespace fastattack
