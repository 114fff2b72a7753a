// adv = the point near adv whose noise has the mean and norm of the original noise.
//
// linf: moments, PRESERVE_ROUNDS rounds, linf; the host never waits. A round reads what the round before left and
// writes the other half of the double buffers, so blocks of one launch never meet. l2: moments, then l2.
#pragma once
#include "common.cuh"
#include "fastattack/preserve_noise.h"

namespace fastattack {
inline namespace FA_ISA {

struct PreserveRecord {
  PreserveState state;
  Moments moments;
};

template <class S>
struct PreserveNoise {
  Samples<S, 3> at;  // adv, origin, clean
  PerSample eps;
  PreserveRecord* records;  // [2, B]
  PreserveSums* partials;   // [2, B, tiles]; the moments are left in the second half
  i64 round;

  FA_DEVICE PreserveRecord* records_of(i64 r) const { return records + (r & 1) * at.batch; }
  FA_DEVICE PreserveSums* partials_of(i64 r) const { return partials + (r & 1) * at.batch * at.tiles; }
  FA_DEVICE Moments* moments() const { return reinterpret_cast<Moments*>(partials_of(1)); }
};

template <class S>
FA_KERNEL preserve_noise_moments_kernel(const PreserveNoise<S> p) {
  using T = typename Storage<S>::real;
  sum_tile(p.at, p.moments(), [&](const T(&x)[3]) { return moment_terms(x[0], x[1], x[2]); });
}

// The state after the evaluation that round `r - 1` left behind.
template <class S>
FA_DEVICE PreserveRecord preserve_record(const PreserveNoise<S>& p, i64 r) {
  i64 sample = p.at.sample();
  double count = (double)p.at.count;
  if (r == 0) {
    Moments m = sum_partials(p.moments(), sample, p.at.tiles);
    return once([&] { return PreserveRecord{preserve_begin(m, count), m}; });
  }
  const PreserveRecord& before = p.records_of(r - 1)[sample];
  if (before.state.done != 0.0) return before;
  PreserveSums sums = sum_partials(p.partials_of(r - 1), sample, p.at.tiles);
  return once([&] {
    PreserveRecord record = before;
    preserve_advance(record.state, sums, record.moments, count);
    return record;
  });
}

template <class S>
FA_KERNEL preserve_noise_round_kernel(const PreserveNoise<S> p) {
  using T = typename Storage<S>::real;
  i64 sample = p.at.sample();
  PreserveRecord record = preserve_record(p, p.round);
  if (p.at.first_thread()) p.records_of(p.round)[sample] = record;
  if (record.state.done != 0.0) return;
  T eps = (T)p.eps.at(sample);
  PreserveMap<T> map = once([&] { return preserve_at<T>(record.state.lambda, record.state.mu); });
  sum_tile(p.at, p.partials_of(p.round),
           [&](const T(&x)[3]) { return preserve_terms(x[0], x[1], x[2], eps, map.a, map.b); });
}

template <class S>
FA_KERNEL preserve_noise_linf_kernel(const PreserveNoise<S> p) {
  using T = typename Storage<S>::real;
  PreserveRecord record = preserve_record(p, p.round);
  T eps = (T)p.eps.at(p.at.sample());
  PreserveMap<T> best = once([&] { return preserve_finish_linf<T>(record.state); });
  map(p.at, [&](const T(&x)[3], bool) { return preserve_apply_linf<S>(x[0], x[1], x[2], eps, best); });
}

template <class S>
FA_KERNEL preserve_noise_l2_kernel(const PreserveNoise<S> p) {
  using T = typename Storage<S>::real;
  i64 sample = p.at.sample();
  Moments m = sum_partials(p.moments(), sample, p.at.tiles);
  PreserveMap<T> turned = once([&] { return preserve_finish_l2<T>(m, (double)p.at.count, p.eps.at(sample)); });
  map(p.at, [&](const T(&x)[3], bool) { return preserve_apply_l2<S>(x[0], x[1], x[2], turned); });
}

}  // namespace FA_ISA
}  // namespace fastattack
