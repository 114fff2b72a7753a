// Steepest ascent in l1 on the k largest gradient entries: SLIDE, Tramer & Boneh, arXiv 1904.13000.
//
// The k-th largest |grad| is found by radix selection: histograms of one digit of the bit pattern after the other, most
// significant first, each over the entries that share the digits chosen so far. Whole numbers: the same everywhere.
#pragma once
#include "pgd_step.h"

namespace fastattack {
inline namespace FA_ISA {

constexpr int RADIX = 256;
constexpr int DIGIT_BITS = 8;

// |x| as a whole number in the same order; NaN above infinity.
FA_HD u32 key_of(float x) { return bits_of(x) & 0x7fffffffu; }
FA_HD u64 key_of(double x) { return bits_of(x) & 0x7fffffffffffffffull; }

// Digits that can differ from zero: what half and bfloat widen to ends in zeros.
template <class S>
struct Digits;
template <>
struct Digits<float> {
  static constexpr int number = 4;
};
template <>
struct Digits<double> {
  static constexpr int number = 8;
};
template <>
struct Digits<half_t> {
  static constexpr int number = 3;
};
template <>
struct Digits<bfloat_t> {
  static constexpr int number = 2;
};

template <class Key>
FA_HD int digit_shift(int digit) {
  return (int)sizeof(Key) * 8 - DIGIT_BITS * (digit + 1);
}

// Whether a key shares the digits before `digit` with the chosen one.
template <class Key>
FA_HD bool shares_prefix(Key key, u64 prefix, int digit) {
  return digit == 0 || (u64)(key >> (digit_shift<Key>(digit) + DIGIT_BITS)) == prefix;
}

template <class Key>
FA_HD int digit_of(Key key, int digit) {
  return (int)((key >> digit_shift<Key>(digit)) & (Key)(RADIX - 1));
}

struct L1Choice {
  u64 prefix;  // the digits of the k-th largest so far
  u64 rank;    // its rank, from the top, among the keys that share them
  u64 above;   // keys larger than all that share them
  u64 equal;   // keys that share them
};

// max(1, ceil(keep * count))
FA_HD u64 l1_rank(double keep, u64 count) {
  double exact = keep * (double)count;
  u64 rank = (u64)exact;
  rank += (double)rank < exact ? 1 : 0;
  return rank < 1 ? 1 : rank;
}

// After the digit `bin`, which `here` keys have and `over` keys exceed.
FA_HD L1Choice l1_choose(L1Choice c, int bin, u64 here, u64 over) {
  return L1Choice{(c.prefix << DIGIT_BITS) | (u64)bin, c.rank - over, c.above + over, here};
}

// What moves, and how far: entries from `key` on, by `size` each.
template <class T, class Key>
struct L1Move {
  Key key;
  T size;
};

// Entries that are zero do not move and are not counted: the step has the length |step| in l1.
template <class S, class T, class Key>
FA_HD L1Move<T, Key> l1_move(L1Choice c, double step, T, Key) {
  Key key = (Key)c.prefix << digit_shift<Key>(Digits<S>::number - 1);
  u64 count = key == 0 ? c.above : c.above + c.equal;
  return L1Move<T, Key>{key, count == 0 ? T(0) : (T)(step / (double)count)};
}

template <class S, class T, class Key>
FA_HD T l1_moved(T adv, T grad, L1Move<T, Key> move) {
  Key key = key_of(grad);
  T x = Storage<S>::round(adv + signed_step(grad, move.size));
  return (key >= move.key) & (key != 0) ? x : adv;
}

}  // namespace FA_ISA
}  // namespace fastattack
