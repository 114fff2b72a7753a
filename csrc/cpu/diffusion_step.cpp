#include <fastattack/diffusion_step.h>

#include "blocks.h"
#include "isa.h"
#include "lanes.h"
#include "numbers.h"

namespace fastattack {
inline namespace FA_ISA {
namespace {

template <bool guided, bool drawn, class S, class T>
void move_run(T* __restrict x, const T* __restrict eps_hat, const float* __restrict z, i64 n, Diffusion<T> by) {
  for (i64 at = 0; at < n; at += FETCH) {
    fetch_ahead(x + at, n - at);
    if (guided) fetch_ahead(eps_hat + at, n - at);
    i64 end = at + FETCH < n ? at + FETCH : n;
#pragma omp simd
    for (i64 i = at; i < end; ++i) x[i] = diffused<S>(x[i], guided ? eps_hat[i] : T(0), drawn ? (T)z[i] : T(0), by);
  }
}

// Of `eps_hat` and `z` a null pointer stands for one that is not there.
template <class S, class T>
void diffuse_run(T* x, const T* eps_hat, const float* z, i64 n, Diffusion<T> by) {
  if (eps_hat)
    z ? move_run<true, true, S>(x, eps_hat, z, n, by) : move_run<true, false, S>(x, eps_hat, z, n, by);
  else
    z ? move_run<false, true, S>(x, eps_hat, z, n, by) : move_run<false, false, S>(x, eps_hat, z, n, by);
}

}  // namespace

void diffusion_step(const DiffusionCall& call) {
  with_storage(call.dtype, [&](auto s) {
    using S = decltype(s);
    using T = typename Storage<S>::real;
    for_elements(call.shape, call.threads, [&](i64 b, i64 first, i64 last) {
      Diffusion<T> by{(T)call.a[b], (T)call.b[b], (T)call.c[b]};
      bool guided = by.b != T(0), drawn = by.c != T(0);
      Source source(call.seed, call.sample_ids, b, numbered(STREAM_DIFFUSION, call.step));
      // Numbers are made for a block of the sample at once, however short its runs are in memory.
      i64 share = drawn ? BLOCK : last - first, longest = longest_run<S>(call.x, call.eps_hat);
      float random[BLOCK];
      Run<S> x, eps_hat;
      for (i64 at = first; at < last; at += share) {
        i64 end = at + share < last ? at + share : last;
        if (drawn) normals(random, source, at, end - at);
        for_runs(call.shape, at, end, longest, [&](const Index& i, i64 n, i64 position) {
          T* to = x.open(call.x, b, i, n);
          const T* e = guided ? eps_hat.open(call.eps_hat, b, i, n) : nullptr;
          diffuse_run<S>(to, e, drawn ? random + (position - at) : nullptr, n, by);
          x.close(to, call.x, b, i, n);
        });
      }
    });
  });
}

}  // namespace FA_ISA
}  // namespace fastattack
