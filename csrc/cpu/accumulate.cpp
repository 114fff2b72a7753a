#include <fastattack/accumulate.h>

#include "blocks.h"
#include "isa.h"
#include "lanes.h"

namespace fastattack {
inline namespace FA_ISA {
namespace {

template <class S, class T>
void accumulate_run(T* __restrict total, const T* __restrict grad, i64 n, T keep, T weight) {
  for (i64 at = 0; at < n; at += FETCH) {
    fetch_ahead(total + at, n - at), fetch_ahead(grad + at, n - at);
    i64 end = at + FETCH < n ? at + FETCH : n;
#pragma omp simd
    for (i64 i = at; i < end; ++i) total[i] = accumulated<S>(total[i], grad[i], keep, weight);
  }
}

}  // namespace

void accumulate(const AccumulateCall& call) {
  with_storage(call.dtype, [&](auto s) {
    using S = decltype(s);
    using T = typename Storage<S>::real;
    i64 longest = longest_run<S>(call.total, call.grad);
    for_elements(call.shape, call.threads, [&](i64 b, i64 first, i64 last) {
      T keep = (T)call.keep[b], weight = (T)call.weight[b];
      Run<S> total, grad;
      for_runs(call.shape, first, last, longest, [&](const Index& i, i64 n, i64) {
        T* t = total.open(call.total, b, i, n);
        accumulate_run<S>(t, grad.open(call.grad, b, i, n), n, keep, weight);
        total.close(t, call.total, b, i, n);
      });
    });
  });
}

}  // namespace FA_ISA
}  // namespace fastattack
