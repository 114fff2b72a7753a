#include "isa.h"
#include "l1_sample.h"

namespace fastattack {
inline namespace FA_ISA {

void l1_project(const Call& call) {
  Segments segments(call.shape.count());
  with_storage(call.dtype, [&](auto s) {
    using S = decltype(s);
    for_samples<L1Sums>(call.shape, call.threads, [&](Team& team, Partials<L1Sums>& partials, i64 b) {
      l1_project_sample<S>(call, team, partials, segments, b);
    });
  });
}

}  // namespace FA_ISA
}  // namespace fastattack
