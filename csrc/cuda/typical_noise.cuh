// out = clean + noise on its shell: typical_noise_sums (which reads no images), then typical_noise, which makes the
// same normals again. Where every sample asks for plain noise the second is launched alone.
#pragma once
#include "fastattack/typical_noise.h"
#include "numbers.cuh"

namespace fastattack {
inline namespace FA_ISA {

template <class S>
struct TypicalNoise {
  Samples<S, 2> at;  // out, clean; walked in logical order
  i64 added;         // 0: there is no clean, and what stands in its place is not read
  PerSample sigma, typicality, mean;
  Numbers numbers;
  NormalSums* partials;  // [B, tiles]

  FA_DEVICE FourNormals normals(i64 quad) const {
    return four_normals(numbers.words(at.sample(), quad, STREAM_TYPICAL_NOISE));
  }
};

// scale * normals + shift, and clean, at the elements of a quad.
template <class S, class T>
FA_DEVICE void write_quad(const TypicalNoise<S>& p, i64 quad, const FourNormals& normals, T scale, T shift) {
  auto value = [&](int j, S clean) {
    T noise = scale * (T)normals.v[j] + shift;
    return Storage<S>::store(Storage<S>::round(p.added ? Storage<S>::load(clean) + noise : noise));
  };
  i64 first = 4 * quad, sample = p.at.sample();
  if (p.at.walk == VECTORS && first + 4 <= p.at.count) {
    Four<S> out, clean = {};
    if (p.added) clean = *reinterpret_cast<Four<S>*>(p.at.data[1] + sample * p.at.strides[1][0] + first);
    for (int j = 0; j < 4; ++j) out.v[j] = value(j, clean.v[j]);
    *reinterpret_cast<Four<S>*>(p.at.data[0] + sample * p.at.strides[0][0] + first) = out;
    return;
  }
  for (int j = 0; j < 4; ++j) {
    if (first + j < p.at.count) {
      i64 at[3];
      offsets(p.at, sample, first + j, at);
      p.at.data[0][at[0]] = value(j, p.added ? p.at.data[1][at[1]] : S{});
    }
  }
}

template <class S>
FA_KERNEL typical_noise_sums_kernel(const TypicalNoise<S> p) {
  i64 sample = p.at.sample();
  double typicality = p.typicality.at(sample);
  if (typicality != typicality) return;  // plain: nobody asks
  double grid = square_grid(p.at.count);
  NormalSums mine = {};
  for_each_quad(p.at, [&](i64 quad) {
    FourNormals normals = p.normals(quad);
    for (int j = 0; j < 4; ++j) {
      if (4 * quad + j < p.at.count) add(mine, normal_terms(normals.v[j], grid));
    }
  });
  NormalSums total = block_sum(mine);
  if (threadIdx.x == 0) p.partials[sample * p.at.tiles + p.at.tile()] = total;
}

template <class S>
FA_KERNEL typical_noise_kernel(const TypicalNoise<S> p) {
  using T = typename Storage<S>::real;
  i64 sample = p.at.sample();
  double typicality = p.typicality.at(sample);
  NormalSums sums = {};
  if (typicality == typicality) sums = sum_partials(p.partials, sample, p.at.tiles);
  Shell shell = once([&] {
    return shell_of(sums, square_grid(p.at.count), (double)p.at.count, p.sigma.at(sample), typicality,
                    p.mean.at(sample));
  });
  T scale = (T)shell.scale, shift = (T)shell.shift;
  for_each_quad(p.at, [&](i64 quad) { write_quad(p, quad, p.normals(quad), scale, shift); });
}

}  // namespace FA_ISA
}  // namespace fastattack
