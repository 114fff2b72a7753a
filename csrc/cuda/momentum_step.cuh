// momentum = what a step adds to it, adv = one step along it. linf: magnitudes, then linf. l2: magnitudes, then sums,
// which writes the momentum, then pgd_step_l2 with the momentum for its gradient.
#pragma once
#include "common.cuh"
#include "fastattack/momentum_step.h"

namespace fastattack {
inline namespace FA_ISA {

template <class S>
struct MomentumStep {
  Samples<S, 4> at;  // momentum, adv, grad, origin
  PerSample eps, step, decay;
  double low, high;
  PerSample grad_scale, momentum_scale, delta_scale;
  double* magnitudes;  // [B, tiles]
  StepSums* partials;  // [B, tiles]

  // What brings |grad| to a mean of 1, known to every thread of the block.
  FA_DEVICE Unit<typename Storage<S>::real> unit() const {
    using T = typename Storage<S>::real;
    double sum = sum_partials(magnitudes, at.sample(), at.tiles);
    return once([&] { return unit_of(sum, at.count, grad_scale.at(at.sample()), T(0)); });
  }
};

template <class S>
FA_KERNEL momentum_step_magnitudes_kernel(const MomentumStep<S> p) {
  using T = typename Storage<S>::real;
  double scale = p.grad_scale.at(p.at.sample());
  sum_tile(p.at, p.magnitudes, [&](const T(&x)[4]) { return magnitude_term(x[2], scale); });
}

template <class S>
FA_KERNEL momentum_step_linf_kernel(const MomentumStep<S> p) {
  using T = typename Storage<S>::real;
  i64 sample = p.at.sample();
  Unit<T> unit = p.unit();
  T eps = (T)p.eps.at(sample), step = (T)p.step.at(sample), decay = (T)p.decay.at(sample);
  Bounds<T> bounds = {(T)p.low, (T)p.high};
  visit<2>(p.at, [&](T(&x)[4], bool on) {
    T momentum = next_momentum(x[0], on ? x[2] : T(0), decay, unit);
    T y = pgd_step_linf<S>(x[1], momentum, x[3], eps, step, bounds);
    x[0] = stored_momentum<S>(momentum);
    x[1] = on ? y : x[3];
  });
}

template <class S>
FA_KERNEL momentum_step_sums_kernel(const MomentumStep<S> p) {
  using T = typename Storage<S>::real;
  i64 sample = p.at.sample();
  Unit<T> unit = p.unit();
  T decay = (T)p.decay.at(sample);
  Scales scales = {p.momentum_scale.at(sample), p.delta_scale.at(sample)};
  StepSums mine = {};
  visit<1>(p.at, [&](T(&x)[4], bool on) {
    x[0] = stored_momentum<S>(next_momentum(x[0], on ? x[2] : T(0), decay, unit));
    if (on) add(mine, step_terms(x[1], x[0], x[3], scales));
  });
  leave_partial(p.at, p.partials, mine);
}

}  // namespace FA_ISA
}  // namespace fastattack
