#include <fastattack/typical_noise.h>

#include "blocks.h"
#include "isa.h"
#include "numbers.h"

namespace fastattack {
inline namespace FA_ISA {

FA_HD void accumulate(NormalSums& into, const NormalSums& from) {
  into.sum += from.sum;
  into.square += from.square;
}

namespace {

constexpr i64 KEPT = 16 * BLOCK;  // normals for which there is room on the stack

// Where the normals of a sample stay from the sums to the writing: in the output itself where that is one run of
// float32, else on the stack. Null where there is no room: they are then made again.
template <class S>
float* keep_in(const NoiseCall& call, i64 b, float* stack) {
  const i64* size = call.shape.size;
  if constexpr (__is_same(S, float)) {
    if (call.out.stride[4] == 1 && size[0] * size[1] * size[2] == 1)
      return (float*)call.out.data + b * call.out.stride[0];
  }
  return call.shape.count() <= KEPT ? stack : nullptr;
}

NormalSums sum_run(const float* normal, i64 n, double grid) {
  double sum = 0, square = 0;
#pragma omp simd reduction(+ : sum, square)
  for (i64 i = 0; i < n; ++i) {
    NormalSums t = normal_terms(normal[i], grid);
    sum += t.sum, square += t.square;
  }
  return NormalSums{sum, square};
}

// f(normals, position, n) for [first, last) of the sample, a block at a time; `kept` holds all of them, or none.
template <class F>
void for_normals(const Source& source, i64 first, i64 last, float* kept, F f) {
  float block[BLOCK];
  for (i64 at = first; at < last; at += BLOCK) {
    i64 n = last - at < BLOCK ? last - at : BLOCK;
    float* normal = kept ? kept + at : block;
    normals(normal, source, at, n);
    f(normal, n);
  }
}

template <class S, class T>
void write_run(T* out, const T* clean, const float* normal, i64 n, T scale, T shift) {  // normal may lie in out
  if (clean) {
#pragma omp simd
    for (i64 k = 0; k < n; ++k) out[k] = Storage<S>::round(clean[k] + (scale * (T)normal[k] + shift));
  } else {
#pragma omp simd
    for (i64 k = 0; k < n; ++k) out[k] = Storage<S>::round(scale * (T)normal[k] + shift);
  }
}

template <class S>
void noise_all(const NoiseCall& call) {
  using T = typename Storage<S>::real;
  Segments segments(call.shape.count());
  double grid = square_grid(segments.count);
  for_samples<NormalSums>(call.shape, call.threads, [&](Team& team, Partials<NormalSums>& partials, i64 b) {
    Source source(call.seed, call.sample_ids, b, STREAM_TYPICAL_NOISE);
    double typicality = call.typicality[b];
    bool plain = typicality != typicality;
    float stack[KEPT];
    float* kept = plain ? nullptr : keep_in<S>(call, b, stack);
    NormalSums sums{0, 0};
    if (!plain)
      sums = team_sum(team, partials, segments, [&](int s) {
        NormalSums total{0, 0};
        for_normals(source, segments.first(s), segments.last(s), kept,
                    [&](const float* normal, i64 n) { accumulate(total, sum_run(normal, n, grid)); });
        return total;
      });
    Shell shell = shell_of(sums, grid, (double)segments.count, call.sigma[b], typicality, call.mean[b]);
    Run<S> out, clean;
    float random[BLOCK];
    for (int s = team.last(segments.number); s-- > team.first(segments.number);)  // what was made last is still near
      for_runs(call.shape, segments.first(s), segments.last(s), BLOCK, [&](const Index& i, i64 n, i64 position) {
        const float* normal = kept ? kept + position : random;
        if (!kept) normals(random, source, position, n);
        T* to = out.place(call.out, b, i, n);
        const T* from = call.clean.data ? clean.open(call.clean, b, i, n) : nullptr;
        write_run<S, T>(to, from, normal, n, (T)shell.scale, (T)shell.shift);
        out.close(to, call.out, b, i, n);
      });
  });
}

}  // namespace

void typical_noise(const NoiseCall& call) {
  with_storage(call.dtype, [&](auto s) { noise_all<decltype(s)>(call); });
}

}  // namespace FA_ISA
}  // namespace fastattack
