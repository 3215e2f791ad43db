/// @file
/// The stem's sizes, and the orders in which its kernels read weights.
///
/// A layout says where weight (tap, input channel, output channel) of a convolution lies. Those of the convolutions on
/// tensor cores hold B fragments of mma.m16n8k16 one after another: a lane finds those of two products in 16
/// consecutive bytes, a warp reads 512 consecutive bytes without a bank conflict, and every address is one register and
/// a constant.
#pragma once

#include <dm2/core/shapes.hpp>
#include <dm2/cuda/element.cuh>

#include <cstddef>
#include <type_traits>

namespace dm2::cuda::detail::stem {

/// A stem's sizes. A plane is what the convolutions write: half the picture's height and width, `hidden` channels.
template <stem_shape S>
struct geometry {
  static constexpr int height = S.height, width = S.width, channels = S.channels, hidden = S.hidden, dim = S.dim;
  static constexpr int plane_height = S.half_height(), plane_width = S.half_width();
  static constexpr int plane_pixels = plane_height * plane_width;
  static constexpr int side = S.patch / 2, grid_width = S.grid_width(), tokens = S.tokens();
  static constexpr int depth = side * side * hidden;  ///< numbers of a patch, what the projection sums over
};

/// [Taps, Inner, N], output channels fastest: for the general kernels.
template <int Taps, int Inner, int N>
struct plain_layout {
  static constexpr std::size_t size = std::size_t(Taps) * Inner * N;
  static __host__ __device__ constexpr int index(int tap, int channel, int out) {
    return (tap * Inner + channel) * N + out;
  }
};

/// [N, Taps, Inner] with rows of whole 16 bytes: for the float kernels. What fills a row up is zeros.
template <int Taps, int Inner, int N>
struct rows_layout {
  static constexpr int rows = N, pitch = (Taps * Inner + 3) / 4 * 4;
  static constexpr std::size_t size = std::size_t(N) * pitch;
  static __host__ __device__ constexpr int index(int tap, int channel, int out) {
    return out * pitch + tap * Inner + channel;
  }
};

/// Where B(k, n) of a 16 x 16 tile lies: 8 numbers a lane, those of columns 0..7 first.
__host__ __device__ constexpr int fragment_position(int k, int n) {
  int const lane = n % 8 * 4 + k % 8 / 2, half_register = n / 8 * 2 + k / 8;
  return lane * 8 + half_register * 2 + k % 2;
}

/// Products of 8 columns that a warp computes in the stem's convolutions.
template <int Hidden>
inline constexpr int warp_columns = Hidden % 32 == 0 ? 4 : 2;

/// The column of the product that computes channel `out`. Columns are dealt out so that the 2 warp_columns sums that a
/// lane holds of a pixel are consecutive channels: it stores them as 16 bytes, without going through shared memory.
template <int Hidden>
__host__ __device__ constexpr int fragment_column(int out) {
  constexpr int each = 2 * warp_columns<Hidden>;
  int const in_warp = out % (4 * each), lane = in_warp / each, rest = in_warp % each;
  return out - in_warp + rest / 2 * 8 + lane * 2 + rest % 2;
}

/// 7 x 7 of at most 4 channels, as 7 rows of 8 pixels of 4 channels; the first pixel and missing channels weigh zero.
/// Order [half a row, row of taps, 16 columns].
template <int Hidden>
struct conv1_layout {
  static constexpr std::size_t size = std::size_t(7 * 32) * Hidden;
  static __host__ __device__ constexpr int index(int tap, int channel, int out) {
    int const k = (tap % 7 + 1) * 4 + channel, n = fragment_column<Hidden>(out);
    return ((k / 16 * 7 + tap / 7) * (Hidden / 16) + n / 16) * 256 + fragment_position(k % 16, n % 16);
  }
};

/// 3 x 3, in the order of the kernel's loops: [column of taps, 16 input channels, row of taps, 16 columns].
template <int Hidden>
struct conv3_layout {
  static constexpr std::size_t size = std::size_t(9) * Hidden * Hidden;
  static __host__ __device__ constexpr int index(int tap, int channel, int out) {
    constexpr int tiles = Hidden / 16;
    int const n = fragment_column<Hidden>(out), k = (tap % 3 * tiles + channel / 16) * 3 + tap / 3;
    return (k * tiles + n / 16) * 256 + fragment_position(channel % 16, n % 16);
  }
};

/// The projection, order [64 inputs, output]: rows of 128 bytes whose 16-byte pieces trade places by output, as a
/// tensor map swizzles them. So 64 inputs of any columns are a product's operand as they lie in memory.
template <int Taps, int Inner, int N>
struct project_layout {
  static constexpr std::size_t size = std::size_t(Taps) * Inner * N;
  static __host__ __device__ constexpr int index(int tap, int channel, int out) {
    int const k = tap * Inner + channel;
    return (k / 64 * N + out) * 64 + (k % 64 / 8 ^ out % 8) * 8 + k % 8;
  }
};

/// Which layouts the weights of a stem have for elements of T.
template <stem_shape S, class T>
struct layouts {
  using geometry = stem::geometry<S>;
  /// Whether the tensor kernels take its convolutions: 16-channel steps, and accumulators and weights that fit.
  static constexpr bool tensor_planes = is_half<T> && S.hidden % 16 == 0 && S.hidden <= 128 && S.channels <= 4;
  /// Whether the tensor kernel takes its projection: steps of 64 inputs, and 8 columns.
  static constexpr bool tensor_projection = is_half<T> && geometry::depth % 64 == 0 && S.dim % 8 == 0;

  /// Whether the float kernels take all of it: copies of four channels.
  static constexpr bool float_tiles = std::is_same_v<T, float> && S.hidden % 4 == 0;

  /// How the weights lie for kernels that are not the tensor cores' of 16 bits.
  template <int Taps, int Inner, int N>
  using float_layout = std::conditional_t<float_tiles, rows_layout<Taps, Inner, N>, plain_layout<Taps, Inner, N>>;
  static constexpr int side_taps = geometry::side * geometry::side;  ///< of the projection

  using conv1 = std::conditional_t<tensor_planes, conv1_layout<S.hidden>, float_layout<49, S.channels, S.hidden>>;
  using conv3 = std::conditional_t<tensor_planes, conv3_layout<S.hidden>, float_layout<9, S.hidden, S.hidden>>;
  using project = std::conditional_t<tensor_projection, project_layout<side_taps, S.hidden, S.dim>,
                                     float_layout<side_taps, S.hidden, S.dim>>;
};

}  // namespace dm2::cuda::detail::stem
