#include <fastattack/random_start.h>

#include "blocks.h"
#include "isa.h"
#include "numbers.h"

namespace fastattack {
inline namespace FA_ISA {
namespace {

struct Square {
  double sum;
};

FA_HD void accumulate(Square& into, const Square& from) { into.sum += from.sum; }

double square_run(const float* normal, i64 n, double grid) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (i64 i = 0; i < n; ++i) sum += on_grid(normal[i], grid);
  return sum;
}

// eps / |normals| of the sample: a pass without memory, over numbers that the second pass makes again.
double normal_scale(Team& team, Partials<Square>& partials, const Segments& segments, const Source& source,
                    double eps) {
  double grid = square_grid(segments.count);
  Square square = team_sum(team, partials, segments, [&](int s) {
    float buffer[BLOCK];
    Square total{0};
    for (i64 at = segments.first(s); at < segments.last(s); at += BLOCK) {
      i64 n = segments.last(s) - at < BLOCK ? segments.last(s) - at : BLOCK;
      normals(buffer, source, at, n);
      total.sum += square_run(buffer, n, grid);
    }
    return total;
  });
  return start_scale(square.sum + extra_square(source.seed, source.id_low, source.id_high, grid), grid, eps);
}

template <class S>
void start_all(const StartCall& start) {
  using T = typename Storage<S>::real;
  const Call& call = start.common;
  bool linf = call.norm == Norm::linf;
  Segments segments(call.shape.count());
  for_samples<Square>(call.shape, call.threads, [&](Team& team, Partials<Square>& partials, i64 b) {
    Source source(start.seed, start.sample_ids, b, STREAM_RANDOM_START);
    double eps = call.eps[b];
    T scale = (T)(linf ? eps : normal_scale(team, partials, segments, source, eps));
    Bounds<T> bounds{(T)call.low, (T)call.high};
    Run<S> adv, origin;
    float random[BLOCK];
    for (int s = team.first(segments.number); s < team.last(segments.number); ++s)
      for_runs(call.shape, segments.first(s), segments.last(s), BLOCK, [&](const Index& i, i64 n, i64 position) {
        (linf ? uniforms : normals)(random, source, position, n);
        T* __restrict a = adv.open(call.adv, b, i, n);
        const T* __restrict o = origin.open(call.origin, b, i, n);
#pragma omp simd
        for (i64 k = 0; k < n; ++k) a[k] = start_point<S>(o[k], scale * (T)random[k], bounds);
        adv.close(a, call.adv, b, i, n);
      });
  });
}

}  // namespace

void random_start(const StartCall& start) {
  with_storage(start.common.dtype, [&](auto s) { start_all<decltype(s)>(start); });
}

}  // namespace FA_ISA
}  // namespace fastattack
