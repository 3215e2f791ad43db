/// @file
/// The convolutional stem, forward: picture to patch grid.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cpu/batch_norm.hpp>
#include <dm2/cpu/context.hpp>
#include <dm2/cpu/conv2d.hpp>
#include <dm2/cpu/gemm.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

namespace dm2::cpu {

namespace detail {

/// The stem's three convolutions as stride-1 convolutions. The first reads the picture in 2 x 2 blocks: 7 x 7 of stride
/// 2 on C channels is 4 x 4 of stride 1 on 4 C, with zeros in the first row and column of taps.
template <stem_shape S>
constexpr plane stem_plane(int stage) {
  int const h = S.half_height(), w = S.half_width();
  return stage == 0 ? plane{h, w, 4 * S.channels, 4, 2} : plane{h, w, S.hidden, 3, 1};
}
template <stem_shape S>
inline constexpr std::ptrdiff_t stem_pixels = std::ptrdiff_t{S.half_height()} * S.half_width();

/// Calls visit(position in w [Co, C, 7, 7], position in the arranged [4, Co, 4, 4 C]) for every tap.
template <stem_shape S, class Visit>
void for_each_first_tap(Visit const& visit) {
  for (int o = 0; o < S.hidden; ++o)
    for (int c = 0; c < S.channels; ++c)
      for (int y = 0; y < 7; ++y)
        for (int x = 0; x < 7; ++x) {
          int const by = y + 1, bx = x + 1;  // tap 0 of the 8 x 8 kernel is the zero one
          int const inner = ((by % 2) * 2 + bx % 2) * S.channels + c;
          visit(((o * S.channels + c) * 7 + y) * 7 + x,
                ((by / 2 * S.hidden + o) * 4 + bx / 2) * 4 * S.channels + inner);
        }
}

/// Kernels in the order in which they are multiplied.
template <stem_shape S, class T>
struct arranged_stem {
  static constexpr int side = S.patch / 2, depth = side * side * S.hidden;
  static constexpr std::size_t first_size = std::size_t(16) * S.hidden * 4 * S.channels;
  static constexpr std::size_t inner_size = std::size_t(9) * S.hidden * S.hidden;
  std::array<T*, 3> conv;
  T* proj;  ///< [dim, side, side, hidden]

  explicit arranged_stem(arena& a) {
    conv = {a.take<T>(first_size), a.take<T>(inner_size), a.take<T>(inner_size)};
    proj = a.take<T>(std::size_t(S.dim) * depth);
  }

  void fill(stem_parameters<S, T const> const& p) const {
    std::fill_n(conv[0], first_size, T(0));
    for_each_first_tap<S>([&](int from, int to) { conv[0][to] = p.conv1.data[from]; });
    for (std::size_t i = 0; i < 2; ++i)
      for_each_tap(S.hidden, S.hidden, 3, [&](int from, int to) { conv[i + 1][to] = p.conv[i].data[from]; });
    for (int d = 0; d < S.dim; ++d)
      for (int c = 0; c < S.hidden; ++c)
        for (int k = 0; k < side * side; ++k)
          proj[d * depth + k * S.hidden + c] = p.proj.data[(d * S.hidden + c) * side * side + k];
  }
};

/// One picture [C, H, W] to the first convolution's plane.
template <stem_shape S, class T>
void picture_to_plane(T const* picture, T* out) {
  constexpr plane p = stem_plane<S>(0);
  clear_border(p, out);
  for (int c = 0; c < S.channels; ++c)
    for (int y = 0; y < S.height; ++y) {
      T const* const line = picture + (std::ptrdiff_t{c} * S.height + y) * S.width;
      T* const to = out + p.at(y / 2, 0) + (y % 2) * 2 * S.channels + c;
      for (int x = 0; x < S.width; ++x) to[std::ptrdiff_t{x / 2} * p.channels + (x % 2) * S.channels] = line[x];
    }
}

/// relu(batch_norm(raw)) of one picture to the next convolution's plane.
template <stem_shape S, class T>
void raw_to_plane(T const* raw, channel_affine<T> const& a, T* out) {
  constexpr plane p = stem_plane<S>(1);
  clear_border(p, out);
  for (int y = 0; y < p.height; ++y)
    affine_relu(raw + std::ptrdiff_t{y} * p.width * S.hidden, p.width, S.hidden, a, out + p.at(y, 0));
}

/// Gathers the patches of one picture for the projection: [H / 2, W / 2, hidden] to [tokens, side, side, hidden].
template <stem_shape S, class T, class Copy>
void for_each_patch_row(Copy const& copy) {
  constexpr int side = S.patch / 2, run = side * S.hidden;
  for (int token = 0; token < S.tokens(); ++token)
    for (int k = 0; k < side; ++k) {
      std::ptrdiff_t const y = token / S.grid_width() * side + k, x = std::ptrdiff_t{token % S.grid_width()} * side;
      copy((y * S.half_width() + x) * S.hidden, (std::ptrdiff_t{token} * side + k) * run, run);
    }
}

/// relu(batch_norm(raw)) of one picture as patches.
template <stem_shape S, class T>
void raw_to_patches(T const* raw, channel_affine<T> const& a, T* patches) {
  for_each_patch_row<S, T>([&](std::ptrdiff_t from, std::ptrdiff_t to, int) {
    affine_relu(raw + from, S.patch / 2, S.hidden, a, patches + to);
  });
}

/// grid [tokens, dim] = patches proj^T + bias for one picture.
template <stem_shape S, class T>
void project_patches(context<T>& ctx, T const* patches, arranged_stem<S, T> const& w, T const* bias, T* grid) {
  constexpr int depth = arranged_stem<S, T>::depth;
  parallel_gemm<op::plain, op::transposed, false, T>(ctx, {patches, S.tokens(), depth}, {w.proj, S.dim, depth},
                                                     {grid, S.tokens(), S.dim});
  for (int t = 0; t < S.tokens(); ++t) array(grid + t * S.dim, S.dim) += array(bias, S.dim);
}

/// Scratch of stem_forward: one picture's planes, and its last activation as patches in the place of a plane.
template <stem_shape S, class T>
struct stem_scratch {
  arranged_stem<S, T> weights;
  std::array<T*, 2> planes;
  T *raw, *rstd;
  channel_affine<T> affine;

  explicit stem_scratch(arena& a) : weights{a}, affine{a, S.hidden} {
    std::size_t const larger = std::max(stem_plane<S>(0).size(), stem_plane<S>(1).size());
    planes = {a.take<T>(larger), a.take<T>(larger)};
    raw = a.take<T>(std::size_t(stem_pixels<S>) * S.hidden);
    rstd = a.take<T>(S.hidden);
  }
};

/// Bytes of a thread's scratch for one band of any of the stem's convolutions, forward or backward.
template <stem_shape S, class T>
std::size_t stem_band_bytes() {
  int const channels = std::max(S.hidden, 4 * S.channels);
  return std::max(conv_band_scratch(stem_plane<S>(0), channels), conv_band_scratch(stem_plane<S>(1), channels)) *
             sizeof(T) +
         arena::alignment;
}

/// Pictures in a grid of that many rows; throws shape_error unless they are whole.
template <stem_shape S>
int stem_batch(std::size_t grid_rows) {
  return require_whole("stem.grid", grid_rows, "tokens", S.tokens());
}

}  // namespace detail

/// conv 7x7 stride 2, then two conv 3x3, each followed by BatchNorm with the running statistics and ReLU, then a
/// convolution of patch / 2 with that stride.
///
/// Shapes   picture [B, C, H, W], normalised; grid [B tokens, dim], row-major patches of picture after picture.
/// Writes   grid (=). Pictures go one after another, so the scratch does not grow with B.
/// Throws   shape_error if grid's rows are not whole pictures; nothing is written then.
template <stem_shape S, class T>
void stem_forward(context<T>& ctx, T const* picture, stem_parameters<S, T const> const& p,
                  stem_statistics<S, T const> const& running, std::type_identity_t<rows<T, S.dim>> grid) {
  using namespace detail;
  int const batch = stem_batch<S>(grid.count);
  if (!ctx.reserve(planned_bytes<stem_scratch<S, T>>(), stem_band_bytes<S, T>())) return;
  arena_scope const scope{ctx.shared()};
  stem_scratch<S, T> const s{ctx.shared()};
  s.weights.fill(p);
  for (int b = 0; b < batch; ++b) {
    picture_to_plane<S>(picture + std::ptrdiff_t{b} * S.channels * S.height * S.width, s.planes[0]);
    for (std::size_t stage = 0; stage < 3; ++stage) {
      constexpr plane next = stem_plane<S>(1);
      T* const out = stage == 2 ? s.raw : s.planes[(stage + 1) % 2];
      for (int c = 0; c < S.hidden; ++c) s.rstd[c] = T(1) / std::sqrt(running.var[stage].data[c] + T(batch_norm_eps));
      s.affine.fill(S.hidden, p.bn_weight[stage].data, p.bn_bias[stage].data, running.mean[stage].data, s.rstd);
      if (stage < 2) clear_border(next, out);
      conv2d(ctx, stem_plane<S>(int(stage)), s.planes[stage % 2], s.weights.conv[stage], S.hidden,
             [&](int y, T const* row) {
               affine_relu(row, next.width, S.hidden, s.affine,
                           out + (stage < 2 ? next.at(y, 0) : std::ptrdiff_t{y} * next.width * S.hidden));
             });
    }
    for_each_patch_row<S, T>(
        [&](std::ptrdiff_t from, std::ptrdiff_t to, int n) { std::copy_n(s.raw + from, n, s.planes[0] + to); });
    project_patches<S>(ctx, s.planes[0], s.weights, p.proj_bias.data,
                       grid.data + std::ptrdiff_t{b} * S.tokens() * S.dim);
  }
}

}  // namespace dm2::cpu
