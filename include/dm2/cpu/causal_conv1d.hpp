/// @file
/// Depthwise causal convolution along a sequence.
#pragma once

#include <dm2/cpu/gemm.hpp>

#include <algorithm>
#include <cstddef>

namespace dm2::cpu {

/// Channels of consecutive tokens: token t starts at data + t * stride. A negative stride walks the tokens backwards.
template <class T>
struct sequence {
  T* data;                ///< the first token's first channel
  std::ptrdiff_t stride;  ///< elements from token to token
  int length;             ///< tokens

  /// Token t's first channel; t is not checked.
  T* operator[](int t) const { return data + t * stride; }
  /// The same tokens from channel c on.
  [[nodiscard]] sequence from(int c) const { return {data + c, stride, length}; }
};

/// [C, K] taps as the state dict has them to [K, C], the order in which rows of channels are multiplied; reversed:
/// channel C - 1 first.
template <class T>
void arrange_taps(T const* w, int channels, int taps, bool reversed, T* out) {
  for (int c = 0; c < channels; ++c)
    for (int k = 0; k < taps; ++k) out[k * channels + (reversed ? channels - 1 - c : c)] = w[c * taps + k];
}

/// y[t,c] = bias[c] + sum_k taps[k,c] x[t - (K - 1) + k, c], zeros before the first token.
///
/// Shapes   x [L, C] with any stride; taps [K, C] (arrange_taps); bias [C]; y [L, C].
/// Writes   y (=). y does not overlap x. On the calling thread.
template <class T>
void causal_conv1d(sequence<T const> x, int channels, int taps, T const* w, T const* bias, sequence<T> y) {
  for (int t = 0; t < x.length; ++t) {
    auto out = array(y[t], channels);
    int const first = std::max(0, taps - 1 - t);  // the taps before the sequence see zeros
    if (first == 0 && taps == 4) {                // one pass for the usual width
      out = array(bias, channels) + array(w, channels) * array(x[t - 3], channels) +
            array(w + channels, channels) * array(x[t - 2], channels) +
            array(w + 2 * channels, channels) * array(x[t - 1], channels) +
            array(w + 3 * channels, channels) * array(x[t], channels);
      continue;
    }
    out = array(bias, channels);
    for (int k = first; k < taps; ++k)
      out += array(w + k * channels, channels) * array(x[t - (taps - 1) + k], channels);
  }
}

/// dx[t,c] += sum_k taps[k,c] dy[t + (K - 1) - k, c],  dw[k,c] += sum_t dy[t,c] x[t - (K - 1) + k, c],
/// db[c] += sum_t dy[t,c]
///
/// Shapes   as causal_conv1d; dw [K, C].
/// Writes   dx, dw, db (+=). On the calling thread.
template <class T>
void causal_conv1d_backward(sequence<T const> x, int channels, int taps, T const* w, sequence<T const> dy,
                            sequence<T> dx, T* dw, T* db) {
  for (int t = 0; t < x.length; ++t) {
    auto const g = array(dy[t], channels);
    array(db, channels) += g;
    for (int k = std::max(0, taps - 1 - t); k < taps; ++k) {
      int const source = t - (taps - 1) + k;
      array(dx[source], channels) += array(w + k * channels, channels) * g;
      array(dw + k * channels, channels) += g * array(x[source], channels);
    }
  }
}

/// Adds the gradient of arranged taps [K, C] to that of the state dict's [C, K].
template <class T>
void add_arranged_taps(T const* arranged, int channels, int taps, bool reversed, T* dw) {
  for (int c = 0; c < channels; ++c)
    for (int k = 0; k < taps; ++k) dw[c * taps + k] += arranged[k * channels + (reversed ? channels - 1 - c : c)];
}

}  // namespace dm2::cpu
