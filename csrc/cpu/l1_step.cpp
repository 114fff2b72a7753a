#include <fastattack/l1_step.h>

#include "isa.h"
#include "l1_sample.h"

namespace fastattack {
inline namespace FA_ISA {

struct L1StepWork {};

// Histograms of three digits in turn, so that one is cleared while nobody reads or fills it.
template <>
struct Partials<L1StepWork> {
  Partials<L1Sums> sums;
  u64 bins[3][RADIX] = {};
};

namespace {

constexpr int COPIES = 4;  // neighbours often share a bin: counting in turns keeps the additions from waiting

struct Histogram {
  u32 bins[COPIES][RADIX];
};

template <class T>
void count_run(Histogram& h, const T* grad, const u8* mask, i64 n, u64 prefix, int digit) {
  for (i64 i = 0; i < n; ++i) {
    auto key = key_of(grad[i]);
    bool on = (mask ? mask[i] != 0 : true) & shares_prefix(key, prefix, digit);
    h.bins[i % COPIES][digit_of(key, digit)] += on ? 1 : 0;
  }
}

// Adds a thread's counts to the team's, and clears them.
void pour(Histogram& h, u64* bins) {
  for (int k = 0; k < RADIX; ++k) {
    u64 count = 0;
    for (int c = 0; c < COPIES; ++c) count += h.bins[c][k], h.bins[c][k] = 0;
    if (count == 0) continue;
#pragma omp atomic
    bins[k] += count;
  }
}

L1Choice choose(L1Choice c, const u64* bins, int digit, double keep) {
  if (digit == 0) {
    u64 total = 0;
    for (int k = 0; k < RADIX; ++k) total += bins[k];
    c.rank = l1_rank(keep, total);
  }
  u64 over = 0;
  for (int k = RADIX - 1; k >= 0; over += bins[k--])
    if (over + bins[k] >= c.rank) return l1_choose(c, k, bins[k], over);
  return c;  // everything is masked: nothing to choose from, and nothing moves
}

template <class S>
L1Choice select_sample(const L1StepCall& call, Team& team, Partials<L1StepWork>& work, const Segments& segments,
                       i64 b) {
  const Call& c = call.common;
  Run<S> grad;
  MaskRun mask;
  Histogram mine{};
  L1Choice choice{0, 0, 0, 0};
  for (int digit = 0; digit < Digits<S>::number; ++digit) {
    int turn = (int)((b * Digits<S>::number + digit) % 3);
    u64* bins = work.bins[turn];
    for (int s = team.first(segments.number); s < team.last(segments.number); ++s)
      for_runs(c.shape, segments.first(s), segments.last(s), BLOCK, [&](const Index& i, i64 n, i64) {
        count_run(mine, grad.open(c.grad, b, i, n), mask.open(c.mask, b, i, n), n, choice.prefix, digit);
      });
    pour(mine, bins);
    team.barrier();
    choice = choose(choice, bins, digit, call.keep[b]);
    if (team.rank == 0)
      for (u64& k : work.bins[(turn + 2) % 3]) k = 0;  // the digit before: all have read it
  }
  return choice;
}

template <class S>
void move_sample(const Call& c, const Team& team, const Segments& segments, i64 b, L1Choice choice) {
  using T = typename Storage<S>::real;
  auto move = l1_move<S>(choice, c.step[b], T(0), key_of(T(0)));
  Run<S> adv, grad;
  i64 longest = longest_run<S>(c.adv, c.grad);
  for (int s = team.first(segments.number); s < team.last(segments.number); ++s)
    for_runs(c.shape, segments.first(s), segments.last(s), longest, [&](const Index& i, i64 n, i64) {
      T* __restrict a = adv.open(c.adv, b, i, n);
      const T* __restrict g = grad.open(c.grad, b, i, n);
#pragma omp simd
      for (i64 k = 0; k < n; ++k) a[k] = l1_moved<S>(a[k], g[k], move);
      adv.close(a, c.adv, b, i, n);
    });
}

}  // namespace

void l1_step(const L1StepCall& call) {
  const Call& c = call.common;
  Segments segments(c.shape.count());
  with_storage(c.dtype, [&](auto s) {
    using S = decltype(s);
    for_samples<L1StepWork>(c.shape, c.threads, [&](Team& team, Partials<L1StepWork>& work, i64 b) {
      move_sample<S>(c, team, segments, b, select_sample<S>(call, team, work, segments, b));
      l1_project_sample<S>(c, team, work.sums, segments, b);
    });
  });
}

}  // namespace FA_ISA
}  // namespace fastattack
