// Noise on the shell of a typical set: the direction is that of a white Gaussian without its mean, the sample's mean
// is exactly `mean`, and |n - mean|^2 = d sigma^2 (1 + 2 typicality) (arXiv 2412.05943).
//
// Sums of the normals and of their squares are made of whole numbers (multiples of 2^-k held exactly in double), so
// that no order of the sum, and with it no backend, thread count or block shape, changes a bit.
#pragma once
#include "philox.h"
#include "random_start.h"

namespace fastattack {
inline namespace FA_ISA {

struct NormalSums {
  double sum, square;
};

// A normal is below 8 and its square below 64; count * 64 * grid < 2^53, and each term below 2^51.
FA_HD double nearest_whole(double x) {
  const double magic = 0x1.8p52;  // beyond it double holds whole numbers only
  return (x + magic) - magic;
}

FA_HD NormalSums normal_terms(float normal, double grid) {
  double n = (double)normal;
  return NormalSums{nearest_whole(n * (8.0 * grid)), nearest_whole(n * n * grid)};
}

// noise = scale * normal + shift
struct Shell {
  double scale, shift;
};

// A typicality that is NaN asks for plain N(mean, sigma^2), and looks at no sums.
FA_HD Shell shell_of(NormalSums sums, double grid, double count, double sigma, double typicality, double mean) {
  double centre = sums.sum / (8.0 * grid) / count;
  double square = sums.square / grid - count * centre * centre;
  double scale = sigma * root(count * (1.0 + 2.0 * typicality)) / root(square);
  bool plain = typicality != typicality;
  return plain ? Shell{sigma, mean} : Shell{scale, mean - scale * centre};
}

}  // namespace FA_ISA
}  // namespace fastattack
