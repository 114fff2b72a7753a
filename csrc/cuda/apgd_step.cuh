// adv = one APGD step from adv, previous = the old adv. l2: apgd_step_sums, apgd_step_measure (which returns at once
// where the sums say all), apgd_step_l2.
#pragma once
#include "common.cuh"
#include "fastattack/apgd_step.h"

namespace fastattack {
inline namespace FA_ISA {

struct SquareSum {
  double square;
};

template <class S>
struct ApgdStep {
  Samples<S, 4> at;  // adv, previous, grad, origin
  PerSample eps, step, momentum;
  double low, high;
  PerSample grad_scale, delta_scale;
  MomentumSums* partials;  // [B, tiles]
  SquareSum* squares;      // [B, tiles]; written where the norm is measured

  FA_DEVICE Scales scales() const { return Scales{grad_scale.at(at.sample()), delta_scale.at(at.sample())}; }
  FA_DEVICE Bounds<typename Storage<S>::real> bounds() const {
    using T = typename Storage<S>::real;
    return {(T)low, (T)high};
  }
  // Known to every thread of the block.
  FA_DEVICE MomentumL2 l2() const {
    i64 sample = at.sample();
    MomentumSums sums = sum_partials(partials, sample, at.tiles);
    bool bounded = low > -double_of(0x7ff0000000000000ull) || high < double_of(0x7ff0000000000000ull);
    return once(
        [&] { return momentum_l2(sums, eps.at(sample), step.at(sample), momentum.at(sample), scales(), bounded); });
  }
};

// adv = step(adv, previous, grad, origin) and previous = the old adv, for every element of this block's tile.
template <class S, class F>
FA_DEVICE void write_elements(const Samples<S, 4>& s, F step) {
  for (i64 i = s.tile() * THREADS + threadIdx.x; i < s.count; i += s.tiles * THREADS) {
    i64 at[5];
    offsets(s, s.sample(), i, at);
    S old = s.data[0][at[0]], origin = s.data[3][at[3]];
    auto y = step(Storage<S>::load(old), Storage<S>::load(s.data[1][at[1]]), Storage<S>::load(s.data[2][at[2]]),
                  Storage<S>::load(origin));
    bool on = s.mask ? s.mask[at[4]] != 0 : true;
    s.data[0][at[0]] = on ? Storage<S>::store(y) : origin;
    s.data[1][at[1]] = on ? old : origin;
  }
}

template <class S, class F>
FA_DEVICE void write_packs(const Samples<S, 4>& s, F step) {
  constexpr int WIDTH = Pack<S>::WIDTH;
  Pack<S>* lines[4];
  for (int k = 0; k < 4; ++k) lines[k] = reinterpret_cast<Pack<S>*>(s.data[k] + s.sample() * s.strides[k][0]);
  for (i64 i = s.tile() * THREADS + threadIdx.x; i < s.count / WIDTH; i += s.tiles * THREADS) {
    Pack<S> old = lines[0][i], previous = lines[1][i], grad = lines[2][i], origin = lines[3][i], out;
#pragma unroll  // or ptxas may keep the packs in memory
    for (int j = 0; j < WIDTH; ++j)
      out.v[j] = Storage<S>::store(step(Storage<S>::load(old.v[j]), Storage<S>::load(previous.v[j]),
                                        Storage<S>::load(grad.v[j]), Storage<S>::load(origin.v[j])));
    lines[0][i] = out;
    lines[1][i] = old;
  }
}

template <class S, class F>
FA_DEVICE void write(const Samples<S, 4>& s, F step) {
  if (s.walk == VECTORS) {
    write_packs(s, step);
  } else {
    write_elements(s, step);
  }
}

template <class S>
FA_KERNEL apgd_step_linf_kernel(const ApgdStep<S> p) {
  using T = typename Storage<S>::real;
  i64 sample = p.at.sample();
  T eps = (T)p.eps.at(sample), size = (T)p.step.at(sample), momentum = (T)p.momentum.at(sample);
  Bounds<T> bounds = p.bounds();
  write(p.at, [&](T adv, T previous, T grad, T origin) {
    return apgd_step_linf<S>(adv, previous, grad, origin, eps, size, momentum, bounds);
  });
}

template <class S>
FA_KERNEL apgd_step_sums_kernel(const ApgdStep<S> p) {
  using T = typename Storage<S>::real;
  Scales scales = p.scales();
  double rest = 1.0 - p.momentum.at(p.at.sample());
  sum_tile(p.at, p.partials, [&](const T(&x)[4]) { return momentum_terms(x[0], x[1], x[2], x[3], rest, scales); });
}

template <class S>
FA_KERNEL apgd_step_measure_kernel(const ApgdStep<S> p) {
  using T = typename Storage<S>::real;
  MomentumL2 l2 = p.l2();
  if (!l2.measure) return;
  sum_tile(p.at, p.squares, [&](const T(&x)[4]) {
    double w = momentum_delta(x[0], x[1], x[2], x[3], l2, p.bounds()) * p.delta_scale.at(p.at.sample());
    return SquareSum{w * w};
  });
}

template <class S>
FA_KERNEL apgd_step_l2_kernel(const ApgdStep<S> p) {
  using T = typename Storage<S>::real;
  i64 sample = p.at.sample();
  MomentumL2 l2 = p.l2();
  if (l2.measure) l2.norm = root(sum_partials(p.squares, sample, p.at.tiles).square) / p.scales().delta;
  double shrink = shrink_to(l2.norm, p.eps.at(sample));
  write(p.at, [&](T adv, T previous, T grad, T origin) {
    return apgd_step_l2<S>(adv, previous, grad, origin, l2, shrink, p.bounds());
  });
}

}  // namespace FA_ISA
}  // namespace fastattack
