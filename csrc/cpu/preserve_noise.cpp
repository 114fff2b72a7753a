#include <fastattack/preserve_noise.h>

#include "blocks.h"
#include "isa.h"

namespace fastattack {
inline namespace FA_ISA {
namespace {

// One struct for both kinds of sum, so that one pair of partials serves the whole solve.
union Sums {
  Moments moments;
  PreserveSums preserve;
  double at[6];
};

FA_HD void accumulate(Sums& into, const Sums& from) {
  for (int k = 0; k < 6; ++k) into.at[k] += from.at[k];
}

template <class T>
void add_moments(Sums& sums, const T* adv, const T* origin, const T* clean, i64 length) {
  double n = 0, nn = 0, t = 0, tt = 0, tn = 0;
#pragma omp simd reduction(+ : n, nn, t, tt, tn)
  for (i64 i = 0; i < length; ++i) {
    Moments m = moment_terms(adv[i], origin[i], clean[i]);
    n += m.n, nn += m.nn, t += m.t, tt += m.tt, tn += m.tn;
  }
  Moments& m = sums.moments;
  m.n += n, m.nn += nn, m.t += t, m.tt += tt, m.tn += tn;
}

template <class T>
void add_preserve(Sums& sums, const T* adv, const T* origin, const T* clean, i64 length, T eps, PreserveMap<T> map) {
  double z = 0, zz = 0, zt = 0, free = 0, free_t = 0, free_tt = 0;
#pragma omp simd reduction(+ : z, zz, zt, free, free_t, free_tt)
  for (i64 i = 0; i < length; ++i) {
    PreserveSums p = preserve_terms(adv[i], origin[i], clean[i], eps, map.a, map.b);
    z += p.z, zz += p.zz, zt += p.zt, free += p.free, free_t += p.free_t, free_tt += p.free_tt;
  }
  PreserveSums& p = sums.preserve;
  p.z += z, p.zz += zz, p.zt += zt, p.free += free, p.free_t += free_t, p.free_tt += free_tt;
}

template <class S>
struct Sample {
  using T = typename Storage<S>::real;
  const Call& call;
  Team& team;
  Partials<Sums>& partials;
  const Segments& segments;
  i64 b;
  Run<S> adv, origin, clean;
  i64 longest = longest_run<S>(call.adv, call.origin, call.clean);

  // f(sums, adv, origin, clean, n) over the sample, added up.
  template <class F>
  Sums sum(F f) {
    return team_sum(team, partials, segments, [&](int s) {
      Sums total{};
      for (double& x : total.at) x = 0;
      for_runs(call.shape, segments.first(s), segments.last(s), longest, [&](const Index& i, i64 n, i64) {
        f(total, adv.open(call.adv, b, i, n), origin.open(call.origin, b, i, n), clean.open(call.clean, b, i, n), n);
      });
      return total;
    });
  }

  // adv = f(adv, origin, clean), element by element.
  template <class F>
  void apply(F f) {
    for (int s = team.first(segments.number); s < team.last(segments.number); ++s)
      for_runs(call.shape, segments.first(s), segments.last(s), longest, [&](const Index& i, i64 n, i64) {
        T* __restrict a = adv.open(call.adv, b, i, n);
        const T* __restrict o = origin.open(call.origin, b, i, n);
        const T* __restrict c = clean.open(call.clean, b, i, n);
#pragma omp simd
        for (i64 k = 0; k < n; ++k) a[k] = f(a[k], o[k], c[k]);
        adv.close(a, call.adv, b, i, n);
      });
  }
};

template <class S>
void preserve_sample(Sample<S>& sample, Norm norm, double eps64) {
  using T = typename Storage<S>::real;
  T eps = (T)eps64;
  double count = (double)sample.segments.count;
  Moments m =
      sample.sum([](Sums& s, const T* a, const T* o, const T* c, i64 n) { add_moments(s, a, o, c, n); }).moments;
  if (norm == Norm::l2) {
    auto map = preserve_finish_l2<T>(m, count, eps64);
    sample.apply([map](T a, T o, T c) { return preserve_apply_l2<S>(a, o, c, map); });
    return;
  }
  PreserveState state = preserve_begin(m, count);
  for (int round = 0; round < PRESERVE_ROUNDS && state.done == 0.0; ++round) {
    auto map = preserve_at<T>(state.lambda, state.mu);
    Sums q = sample.sum(
        [eps, map](Sums& s, const T* a, const T* o, const T* c, i64 n) { add_preserve(s, a, o, c, n, eps, map); });
    preserve_advance(state, q.preserve, m, count);
  }
  auto map = preserve_finish_linf<T>(state);
  sample.apply([map, eps](T a, T o, T c) { return preserve_apply_linf<S>(a, o, c, eps, map); });
}

}  // namespace

void preserve_noise(const Call& call) {
  Segments segments(call.shape.count());
  with_storage(call.dtype, [&](auto s) {
    using S = decltype(s);
    for_samples<Sums>(call.shape, call.threads, [&](Team& team, Partials<Sums>& partials, i64 b) {
      Sample<S> sample{call, team, partials, segments, b, {}, {}, {}};
      preserve_sample(sample, call.norm, call.eps[b]);
    });
  });
}

}  // namespace FA_ISA
}  // namespace fastattack
