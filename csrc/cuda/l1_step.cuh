// adv += the sparse step along grad; the kernels of l1_project follow.
//
// l1_step_count once for each digit, then l1_step. Every block chooses the digit before from its histogram for itself.
// The counts are whole numbers, so atomic additions give the same bits in any order.
#pragma once
#include "common.cuh"
#include "fastattack/l1_step.h"

namespace fastattack {
inline namespace FA_ISA {

static_assert(RADIX == THREADS, "a thread for each bin");

// What the digits share. The bins are zero at first; a choice is what was known before its digit.
struct L1Select {
  PerSample keep;
  L1Choice* choices;  // [B, digits]
  u64* bins;          // [B, digits, RADIX]
  i64 digits;

  FA_DEVICE L1Choice* choice(i64 sample, i64 digit) const { return choices + sample * digits + digit; }
  FA_DEVICE u64* histogram(i64 sample, i64 digit) const { return bins + (sample * digits + digit) * RADIX; }
};

template <class S>
struct L1Count {
  Samples<S, 1> at;  // grad
  L1Select select;
  i64 digit;
};

template <class S>
struct L1Step {
  Samples<S, 2> at;  // adv, grad
  PerSample step;
  L1Select select;
};

// The choice after the digits before `digit`, known to every thread of the block.
FA_DEVICE L1Choice l1_chosen(const L1Select& s, i64 sample, i64 digit) {
  __shared__ u64 tail[RADIX];  // keys in this bin and those above
  __shared__ L1Choice chosen;
  if (digit == 0) return L1Choice{0, 0, 0, 0};
  int bin = (int)threadIdx.x;
  u64 here = s.histogram(sample, digit - 1)[bin];
  tail[bin] = here;
  __syncthreads();
  for (int reach = 1; reach < RADIX; reach *= 2) {
    u64 next = bin + reach < RADIX ? tail[bin + reach] : 0;
    __syncthreads();
    tail[bin] += next;
    __syncthreads();
  }
  L1Choice before = digit == 1 ? L1Choice{0, l1_rank(s.keep.at(sample), tail[0]), 0, 0} : *s.choice(sample, digit - 1);
  if (bin == 0 && tail[0] == 0) chosen = L1Choice{0, 1, 0, 0};  // everything is masked: nothing moves
  u64 over = tail[bin] - here;
  if (over < before.rank && before.rank <= tail[bin]) chosen = l1_choose(before, bin, here, over);
  __syncthreads();
  return chosen;
}

template <class S>
FA_KERNEL l1_step_count_kernel(const L1Count<S> p) {
  using T = typename Storage<S>::real;
  __shared__ u32 counts[RADIX];
  i64 sample = p.at.sample();
  L1Choice choice = l1_chosen(p.select, sample, p.digit);
  if (p.at.first_thread()) *p.select.choice(sample, p.digit) = choice;
  counts[threadIdx.x] = 0;
  __syncthreads();
  auto count = [&](const T(&x)[1], bool on) {
    auto key = key_of(x[0]);
    if (on && shares_prefix(key, choice.prefix, (int)p.digit)) atomicAdd(&counts[digit_of(key, (int)p.digit)], 1u);
    return T(0);
  };
  if (p.at.walk == VECTORS) {
    visit_packs<false>(p.at, count);
  } else {
    visit_elements<false>(p.at, count);
  }
  __syncthreads();
  u64 mine = counts[threadIdx.x];
  if (mine != 0) atomicAdd(p.select.histogram(sample, p.digit) + threadIdx.x, mine);
}

template <class S>
FA_KERNEL l1_step_kernel(const L1Step<S> p) {
  using T = typename Storage<S>::real;
  i64 sample = p.at.sample();
  L1Choice choice = l1_chosen(p.select, sample, p.select.digits);
  auto move = once([&] { return l1_move<S>(choice, p.step.at(sample), T(0), key_of(T(0))); });
  map(p.at, [&](const T(&x)[2], bool on) { return on ? l1_moved<S>(x[0], x[1], move) : x[0]; });
}

}  // namespace FA_ISA
}  // namespace fastattack
