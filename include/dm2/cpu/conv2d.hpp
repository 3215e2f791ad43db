/// @file
/// Square convolutions of stride 1 on channels-last pictures, as products without gathering.
///
/// A picture lies in a padded plane: (H + K - 1) rows of (W + K - 1) pixels of C channels. The K C numbers under one
/// kernel row are consecutive there, so pixel after pixel they form a matrix whose rows overlap (stride C, width K C),
/// and a convolution is K products, one a kernel row. The K - 1 results at the end of each line that reach into the
/// next are not used.
#pragma once

#include <dm2/cpu/context.hpp>
#include <dm2/cpu/gemm.hpp>

#include <algorithm>
#include <cstddef>

namespace dm2::cpu::detail {

/// Sizes of a padded plane.
struct plane {
  int height, width, channels;  ///< of the picture
  int kernel;                   ///< K
  int before;                   ///< rows and columns of zeros before the picture; K - 1 - before follow it

  [[nodiscard]] constexpr std::ptrdiff_t pitch() const { return width + kernel - 1; }
  /// Elements.
  [[nodiscard]] constexpr std::size_t size() const {
    return std::size_t(height + kernel - 1) * std::size_t(pitch()) * std::size_t(channels);
  }
  /// Elements from the plane's start to pixel (y, x) of the picture.
  [[nodiscard]] constexpr std::ptrdiff_t at(std::ptrdiff_t y, std::ptrdiff_t x) const {
    return ((y + before) * pitch() + x + before) * channels;
  }
};

/// Zeroes everything outside the picture.
template <class T>
void clear_border(plane p, T* data) {
  std::ptrdiff_t const inside = std::ptrdiff_t{p.width} * p.channels;
  std::ptrdiff_t at = 0;
  for (int y = 0; y < p.height; ++y) {
    std::ptrdiff_t const first = p.at(y, 0);
    array(data + at, first - at).setZero();
    at = first + inside;
  }
  array(data + at, std::ptrdiff_t(p.size()) - at).setZero();
}

/// Output rows that are computed at a time: about 900 pixels, whose results stay in cache.
inline int conv_band(plane p) { return int(std::clamp<std::ptrdiff_t>(900 / p.pitch(), 1, p.height)); }

/// Elements of scratch for one band.
inline std::size_t conv_band_scratch(plane p, int out_channels) {
  return std::size_t(conv_band(p)) * std::size_t(p.pitch()) * std::size_t(out_channels);
}

/// Output rows [y0, y1): emit(y, values) receives each row's [W, Co] results.
///
/// Shapes   in: a plane; w [K, Co, K, Ci]; scratch: conv_band_scratch.
template <class T, class Emit>
void conv2d_rows(plane p, T const* in, T const* w, int out_channels, int y0, int y1, T* scratch, Emit const& emit) {
  std::ptrdiff_t const pixels = (y1 - y0) * p.pitch() - (p.kernel - 1), depth = std::ptrdiff_t{p.kernel} * p.channels;
  matrix<T> const out{scratch, pixels, out_channels};
  for (int ky = 0; ky < p.kernel; ++ky) {
    matrix<T const> const taps{w + ky * out_channels * depth, out_channels, depth};
    matrix<T const> const under{in + (y0 + ky) * p.pitch() * p.channels, pixels, depth, p.channels};
    if (ky == 0)
      gemm<op::plain, op::transposed, false, T>(under, taps, out);
    else
      gemm<op::plain, op::transposed, true, T>(under, taps, out);
  }
  for (int y = y0; y < y1; ++y) emit(y, scratch + (y - y0) * p.pitch() * out_channels);
}

/// A whole picture, its bands spread over the threads.
template <class T, class Emit>
void conv2d(context<T>& ctx, plane p, T const* in, T const* w, int out_channels, Emit const& emit) {
  int const band = conv_band(p);
  ctx.for_each((p.height + band - 1) / band, [&](int i, arena& scratch) {
    T* const rows = scratch.template take<T>(conv_band_scratch(p, out_channels));
    conv2d_rows(p, in, w, out_channels, i * band, std::min(p.height, (i + 1) * band), rows, emit);
  });
}

/// A whole picture on the calling thread.
template <class T, class Emit>
void conv2d(plane p, T const* in, T const* w, int out_channels, arena& scratch, Emit const& emit) {
  arena_scope const scope{scratch};
  T* const rows = scratch.template take<T>(conv_band_scratch(p, out_channels));
  int const band = conv_band(p);
  for (int y = 0; y < p.height; y += band)
    conv2d_rows(p, in, w, out_channels, y, std::min(p.height, y + band), rows, emit);
}

/// dw [K, Co, K, Ci] += the gradient for one picture.
///
/// Shapes   in: the forward's plane; dout: a plane of Co channels of the same kernel, with K - 1 - before zeros before
/// it.
template <class T>
void conv2d_weight_gradient(plane p, T const* in, plane q, T const* dout, T* dw) {
  std::ptrdiff_t const pixels = (p.height - 1) * p.pitch() + p.width, depth = std::ptrdiff_t{p.kernel} * p.channels;
  matrix<T const> const grad{dout + q.at(0, 0), pixels, q.channels};
  for (int ky = 0; ky < p.kernel; ++ky)
    gemm<op::transposed, op::plain, true, T>(grad, {in + ky * p.pitch() * p.channels, pixels, depth, p.channels},
                                             {dw + ky * q.channels * depth, q.channels, depth});
}

/// Calls visit(position in w [Co, Ci, K, K], position in arranged [K, Co, K, Ci]) for every tap.
template <class Visit>
void for_each_tap(int out_channels, int in_channels, int kernel, Visit const& visit) {
  for (int o = 0; o < out_channels; ++o)
    for (int i = 0; i < in_channels; ++i)
      for (int y = 0; y < kernel; ++y)
        for (int x = 0; x < kernel; ++x)
          visit(((o * in_channels + i) * kernel + y) * kernel + x,
                ((y * out_channels + o) * kernel + x) * in_channels + i);
}

/// The arranged kernel of the convolution that gives the input's gradient: [K, Co, K, Ci] to [K, Ci, K, Co], both
/// directions mirrored.
template <class T>
void mirror_kernel(T const* w, int out_channels, int in_channels, int kernel, T* mirrored) {
  for (int y = 0; y < kernel; ++y)
    for (int o = 0; o < out_channels; ++o)
      for (int x = 0; x < kernel; ++x)
        for (int i = 0; i < in_channels; ++i)
          mirrored[(((kernel - 1 - y) * in_channels + i) * kernel + (kernel - 1 - x)) * out_channels + o] =
              w[((y * out_channels + o) * kernel + x) * in_channels + i];
}

}  // namespace dm2::cpu::detail
