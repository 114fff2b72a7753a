#include <fastattack/random_start.h>

#include "blocks.h"
#include "isa.h"

namespace fastattack {
inline namespace FA_ISA {
namespace {

constexpr i64 QUADS = BLOCK / 4 + 2;  // a run of BLOCK elements may start and end inside a quad

struct Sample {
  u64 seed;
  u32 id_low, id_high;
};

struct WordRun {
  u32 w[4][QUADS];
};

// The words of the quads from `first`: independent counters, one to a vector lane.
void make_words(WordRun& words, const Sample& sample, i64 first, i64 quads) {
#pragma omp simd
  for (i64 q = 0; q < quads; ++q) {
    Words x = philox((u32)(first + q), sample.id_low, sample.id_high, STREAM_RANDOM_START, sample.seed);
    words.w[0][q] = x.w[0];
    words.w[1][q] = x.w[1];
    words.w[2][q] = x.w[2];
    words.w[3][q] = x.w[3];
  }
}

// out[i] for the elements [position, position + n) of the sample.
void uniforms(float* out, const Sample& sample, i64 position, i64 n) {
  WordRun words;
  float all[4 * QUADS];
  i64 first = position / 4, quads = (position + n + 3) / 4 - first;
  make_words(words, sample, first, quads);
  for (i64 q = 0; q < quads; ++q)
    for (int k = 0; k < 4; ++k) all[4 * q + k] = symmetric_uniform(words.w[k][q]);
  __builtin_memcpy(out, all + position % 4, (u64)n * sizeof(float));
}

void normals(float* out, const Sample& sample, i64 position, i64 n) {
  WordRun words;
  float lane[4][QUADS], all[4 * QUADS];
  i64 first = position / 4, quads = (position + n + 3) / 4 - first;
  make_words(words, sample, first, quads);
#pragma omp simd
  for (i64 q = 0; q < quads; ++q) {
    Normals ab = normal_pair(words.w[0][q], words.w[1][q]), cd = normal_pair(words.w[2][q], words.w[3][q]);
    lane[0][q] = ab.a;
    lane[1][q] = ab.b;
    lane[2][q] = cd.a;
    lane[3][q] = cd.b;
  }
  for (i64 q = 0; q < quads; ++q)
    for (int k = 0; k < 4; ++k) all[4 * q + k] = lane[k][q];
  __builtin_memcpy(out, all + position % 4, (u64)n * sizeof(float));
}

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
double normal_scale(Team& team, Partials<Square>& partials, const Segments& segments, const Sample& sample,
                    double eps) {
  double grid = square_grid(segments.count);
  Square square = team_sum(team, partials, segments, [&](int s) {
    float buffer[BLOCK];
    Square total{0};
    for (i64 at = segments.first(s); at < segments.last(s); at += BLOCK) {
      i64 n = segments.last(s) - at < BLOCK ? segments.last(s) - at : BLOCK;
      normals(buffer, sample, at, n);
      total.sum += square_run(buffer, n, grid);
    }
    return total;
  });
  return start_scale(square.sum + extra_square(sample.seed, sample.id_low, sample.id_high, grid), grid, eps);
}

template <class S>
void start_all(const StartCall& start) {
  using T = typename Storage<S>::real;
  const Call& call = start.common;
  bool linf = call.norm == Norm::linf;
  Segments segments(call.shape.count());
  for_samples<Square>(call.shape, call.threads, [&](Team& team, Partials<Square>& partials, i64 b) {
    u64 id = (u64)(start.sample_ids ? start.sample_ids[b] : b);
    Sample sample{start.seed, (u32)id, (u32)(id >> 32)};
    double eps = call.eps[b];
    T scale = (T)(linf ? eps : normal_scale(team, partials, segments, sample, eps));
    Bounds<T> bounds{(T)call.low, (T)call.high};
    Run<S> adv, origin;
    float random[BLOCK];
    for (int s = team.first(segments.number); s < team.last(segments.number); ++s)
      for_runs(call.shape, segments.first(s), segments.last(s), BLOCK, [&](const Index& i, i64 n, i64 position) {
        (linf ? uniforms : normals)(random, sample, position, n);
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
