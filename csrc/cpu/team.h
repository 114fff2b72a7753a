// Threads. A call either gives whole samples to the threads (small samples: each stays in one core's cache), or lets
// the whole team work on one sample after the other. Sums are made of fixed segments, added in order: the same bits for
// any number of threads.
#pragma once
#include <fastattack/base.h>

#include "calls.h"
#ifdef _OPENMP
#include <omp.h>
#endif

namespace fastattack {
inline namespace FA_ISA {

constexpr i64 BLOCK = 1024;             // elements converted at a time: the buffers stay in L1
constexpr i64 SEGMENT = 64 * BLOCK;     // the smallest share of a sample
constexpr int MAX_SEGMENTS = 256;       // the shares grow with the sample, so partial sums fit on the stack
constexpr i64 PARALLEL_FROM = 1 << 15;  // elements below which a parallel region costs more than it gives
constexpr i64 SPLIT_FROM = 1 << 17;     // elements of a sample above which the team shares it

struct Segments {
  i64 count, length;
  int number;
  explicit Segments(i64 n) : count(n) {
    i64 share = (n + MAX_SEGMENTS - 1) / MAX_SEGMENTS;
    length = share <= SEGMENT ? SEGMENT : (share + BLOCK - 1) / BLOCK * BLOCK;
    number = (int)((n + length - 1) / length);
  }
  i64 first(int s) const { return s * length; }
  i64 last(int s) const { return first(s) + length < count ? first(s) + length : count; }
};

template <class Sums>
struct Partials {
  Sums slot[2][MAX_SEGMENTS];  // two, so that one reduction may start while a slow thread still reads the last
};

struct Team {
  int rank, size;
  int phase = 0;
  int first(int segments) const { return (int)((i64)segments * rank / size); }
  int last(int segments) const { return (int)((i64)segments * (rank + 1) / size); }
  void barrier() const {
#ifdef _OPENMP
    if (size > 1) {
#pragma omp barrier
    }
#endif
  }
};

// Adds up `part(segment)` over the sample; every thread of the team gets the total.
template <class Sums, class Part>
inline Sums team_sum(Team& team, Partials<Sums>& partials, const Segments& segments, Part part) {
  Sums* slot = partials.slot[team.phase++ & 1];
  for (int s = team.first(segments.number); s < team.last(segments.number); ++s) slot[s] = part(s);
  team.barrier();
  Sums total = slot[0];
  for (int s = 1; s < segments.number; ++s) accumulate(total, slot[s]);
  return total;
}

inline int threads_for(const Shape& shape, int threads) {
  return shape.batch * shape.count() < PARALLEL_FROM ? 1 : threads;
}

// body(team, partials, sample) for each sample.
template <class Sums, class Body>
inline void for_samples(const Shape& shape, int threads, Body body) {
  threads = threads_for(shape, threads);
  // Whole samples where that keeps the threads busy: the team has to meet once or more a sample.
  i64 rounds = (shape.batch + threads - 1) / threads;
  bool split = shape.count() >= SPLIT_FROM && 10 * shape.batch < 9 * rounds * threads;
  if (threads == 1) {
    Partials<Sums> partials;
    Team team{0, 1};
    for (i64 b = 0; b < shape.batch; ++b) body(team, partials, b);
    return;
  }
#ifdef _OPENMP
  if (split) {
    Partials<Sums> partials;
#pragma omp parallel num_threads(threads)
    {
      Team team{omp_get_thread_num(), omp_get_num_threads()};
      for (i64 b = 0; b < shape.batch; ++b) body(team, partials, b);
    }
    return;
  }
#pragma omp parallel num_threads(threads)
  {
    Partials<Sums> partials;
    Team team{0, 1};
#pragma omp for schedule(static)
    for (i64 b = 0; b < shape.batch; ++b) body(team, partials, b);
  }
#endif
}

// body(sample, first, last) over ranges that together make up every sample: no thread waits for another.
template <class Body>
inline void for_elements(const Shape& shape, int threads, Body body) {
  i64 count = shape.count(), blocks = (count + BLOCK - 1) / BLOCK, units = shape.batch * blocks;
  threads = threads_for(shape, threads);
  auto share = [&](i64 unit, i64 end) {
    while (unit < end) {
      i64 b = unit / blocks, first = unit % blocks;
      i64 last = first + (end - unit) < blocks ? first + (end - unit) : blocks;
      body(b, first * BLOCK, last * BLOCK < count ? last * BLOCK : count);
      unit += last - first;
    }
  };
#ifdef _OPENMP
  if (threads > 1) {
#pragma omp parallel num_threads(threads)
    share(units * omp_get_thread_num() / omp_get_num_threads(),
          units * (omp_get_thread_num() + 1) / omp_get_num_threads());
    return;
  }
#endif
  share(0, units);
}

}  // namespace FA_ISA
}  // namespace fastattack
