#include <fastattack/noise_stats.h>

#include "blocks.h"
#include "isa.h"
#include "lanes.h"
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

NoiseSums sum_run_fast(const float* noise, i64 n, float mean) {
  HalfLanes sum{}, square{}, absolute{}, raw_square{};
  Lanes largest{};
  i64 rest = for_groups_in_four(n, [&](i64 i, i64 stride) {
    Lanes held_sum{}, held_square{}, held_absolute{}, held_raw{};
    for (int v = 0; v < HOLD; ++v) {
      Lanes raw = load_lanes(noise + i + v % 4 * stride + v / 4 * LANES), x = raw - mean, a = lane_magnitude(raw);
      held_sum += x, held_square += x * x, held_absolute += a;
      if (mean != 0.0f) held_raw += raw * raw;
      largest = larger_magnitude(largest, a);
    }
    add_lanes(sum, held_sum), add_lanes(square, held_square), add_lanes(absolute, held_absolute);
    add_lanes(raw_square, mean != 0.0f ? held_raw : held_square);
  });
  NoiseSums sums = sum_run(noise + rest, n - rest, (double)mean, 1.0);
  double top = 0;
  for (int l = 0; l < LANES; ++l) top = largest[l] > top || largest[l] != largest[l] ? largest[l] : top;
  accumulate(sums, NoiseSums{across(sum), across(square), across(absolute), across(raw_square), top});
  return sums;
}

// Whether float32 lanes were enough: squares in range, and the shift near enough that the variance does not cancel.
bool trusted(const NoiseSums& s, double count) {
  double shifted = s.sum / count;
  bool spread = s.square / count > 4.0 * shifted * shifted || count == 1.0;
  return in_range(s.square, count) && in_range(s.raw_square, count) && spread;
}

template <class S>
void stats_all(const StatsCall& call) {
  using T = typename Storage<S>::real;
  Segments segments(call.shape.count());
  View none{nullptr, {}};
  i64 longest = longest_run<S>(call.noise);
  for_samples<NoiseSums>(call.shape, call.threads, [&](Team& team, Partials<NoiseSums>& partials, i64 b) {
    Run<S> noise;
    double scale = 1.0, mean = call.mean[b], count = (double)segments.count;
    if constexpr (sizeof(S) == sizeof(double))
      scale = scale_for(largest_in<S>(call.shape, call.noise, none, b, 0, segments.count));
    auto sum = [&](bool exact) {
      return team_sum(team, partials, segments, [&](int s) {
        NoiseSums total{0, 0, 0, 0, 0};
        for_runs(call.shape, segments.first(s), segments.last(s), longest, [&](const Index& i, i64 n, i64) {
          const T* x = noise.open(call.noise, b, i, n);
          if constexpr (sizeof(T) == sizeof(float)) {
            if (!exact) return accumulate(total, sum_run_fast(x, n, (float)mean));
          }
          accumulate(total, sum_run(x, n, mean, scale));
        });
        return total;
      });
    };
    bool exact = sizeof(T) != sizeof(float) || (double)(float)mean != mean;
    NoiseSums sums = sum(exact);
    if (!exact && !trusted(sums, count)) sums = sum(true);
    if (team.rank == 0) finish_noise_stats(sums, count, mean, call.sigma[b], scale, call.out + b * NOISE_STATS);
  });
}

}  // namespace

void noise_stats(const StatsCall& call) {
  with_storage(call.dtype, [&](auto s) { stats_all<decltype(s)>(call); });
}

}  // namespace FA_ISA
}  // namespace fastattack
