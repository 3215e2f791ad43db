/// @file
/// Rotary position embedding (Su et al. 2021, arXiv 2104.09864).
#pragma once

#include <dm2/cpu/causal_conv1d.hpp>

#include <cmath>
#include <cstddef>

namespace dm2::cpu {

/// cos and sin of t 10000^(-2 i / rot) for token t and i < rot / 2, as [L, rot]: a row holds the cosines, then the
/// sines. Angles are computed in double, since float loses 1e-5 at token 197.
template <class T>
void rotary_table(int length, int rot, T* table) {
  int const half = rot / 2;
  for (int t = 0; t < length; ++t)
    for (int i = 0; i < half; ++i) {
      double const angle = t * std::pow(10000.0, -2.0 * i / rot);
      table[t * rot + i] = T(std::cos(angle));
      table[t * rot + half + i] = T(std::sin(angle));
    }
}

/// Turns the first rot channels of each token in place: (a, b) -> (a cos - b sin, b cos + a sin), where a is the first
/// half of the rot channels and b the second. `direction` = 1 turns, -1 turns back, which is also the gradient.
template <class T>
void rotate(sequence<T> x, int rot, T const* table, T direction) {
  int const half = rot / 2;
  for (int t = 0; t < x.length; ++t) {
    T *const a = x[t], *const b = a + half;
    T const *const c = table + t * rot, *const s = c + half;
    for (int i = 0; i < half; ++i) {
      T const turned = a[i] * c[i] - direction * b[i] * s[i];
      b[i] = b[i] * c[i] + direction * a[i] * s[i];
      a[i] = turned;
    }
  }
}

}  // namespace dm2::cpu
