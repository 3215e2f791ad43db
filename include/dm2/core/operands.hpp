/// @file
/// Operands: parameters grouped by operation, shared by every backend.
///
/// Each group is a set of views; with element type `T const` they are parameters, with `T` gradients to add to.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/error.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace dm2 {

/// How the scan treats tokens before the present tile: as one masked product, or by a state carried from tile to tile.
enum class scan_form : unsigned char { automatic, quadratic, chunked };

/// Weight and bias of a linear layer, or their gradients. A bias that is a view of nothing is absent. W is the type of
/// the matrix where it is not the bias's: a GPU multiplies 16-bit copies.
template <class T, int N, int K, space S = space::host, class W = T>
struct linear_parameters {
  block<W, S, N, K> weight;  ///< [N, K]: output channels, input channels
  block<T, S, N> bias;       ///< [N], or a view of nothing
};

/// A core's rows and the output projection that reads them, or their gradients. T and W as in linear_parameters, E is
/// the rows' type.
template <class T, int D, int K, space S = space::host, class E = T, class W = T>
struct core_projection {
  rows<E, K, S> core;                    ///< [R, K]
  linear_parameters<T, D, K, S, W> out;  ///< to the D channels of the residual stream
};

/// Sums of squares of rows that still lack their norm. A mixer may leave its norm's factor to the operation that reads
/// its rows, which then multiplies each half of a row by 1 / sqrt(sum of its parts / channels of a half + 1e-5).
template <int Units>
struct row_squares {
  float const* parts = nullptr;  ///< [R, 2, Units]; null: the rows are normed
};

/// A norm and the projection that reads it, or their gradients.
template <class T, int N, int K, space S = space::host, class W = T>
struct norm_projection {
  block<T, S, K> norm;                  ///< [K], the norm's weight
  linear_parameters<T, N, K, S, W> in;  ///< reads the normed rows
};

/// The residual stream where a norm reads it, as the norm's backward needs it.
template <class T, int D, space S = space::host>
struct norm_point {
  rows<T, D, S> residual;  ///< [R, D], after the addition
  T* rstd;                 ///< [R], the norm's 1 / root mean square
};

/// Trained parameters of the stem, or their gradients.
template <stem_shape S, class T, space M = space::host>
struct stem_parameters {
  block<T, M, S.hidden, S.channels, 7, 7> conv1;                ///< the first convolution, of stride 2
  std::array<block<T, M, S.hidden, S.hidden, 3, 3>, 2> conv;    ///< the second and third convolution
  std::array<block<T, M, S.hidden>, 3> bn_weight;               ///< BatchNorm's scale after each convolution
  std::array<block<T, M, S.hidden>, 3> bn_bias;                 ///< and its shift
  block<T, M, S.dim, S.hidden, S.patch / 2, S.patch / 2> proj;  ///< the convolution to patches
  block<T, M, S.dim> proj_bias;                                 ///< [dim]
};

/// BatchNorm's running statistics.
template <stem_shape S, class T, space M = space::host>
struct stem_statistics {
  std::array<block<T, M, S.hidden>, 3> mean;  ///< after each convolution
  std::array<block<T, M, S.hidden>, 3> var;   ///< unbiased, as PyTorch keeps it
};

/// The stem's activations that its backward reads, beside the picture: the convolutions' raw outputs and the batch's
/// statistics. 9.6 MB a picture at Tiny's size in float.
template <stem_shape S, class T>
struct stem_saved {
  std::array<T*, 3> raw;   ///< [B, H / 2, W / 2, hidden], each convolution's output before BatchNorm
  std::array<T*, 3> mean;  ///< [hidden], of the batch
  std::array<T*, 3> rstd;  ///< [hidden], 1 / sqrt(variance + eps)

  /// Takes its memory from a, for `batch` pictures.
  stem_saved(arena& a, int batch) {
    for (int i = 0; i < 3; ++i) {
      raw[std::size_t(i)] = a.take<T>(std::size_t(batch) * S.half_height() * S.half_width() * S.hidden);
      mean[std::size_t(i)] = a.take<T>(S.hidden);
      rstd[std::size_t(i)] = a.take<T>(S.hidden);
    }
  }
};

/// Parameters (or their gradients) of one direction of the mixer.
template <mixer_shape M, class T, space S = space::host>
struct mixer_direction {
  block<T, S, M.conv_dim(), 1, M.d_conv> conv;  ///< taps, last one the present token
  block<T, S, M.conv_dim()> conv_bias;          ///< one for each channel of the convolution
  block<T, S, M.heads> dt_bias;                 ///< dt = softplus(projected dt + dt_bias)
  block<T, S, M.heads> a_log;                   ///< A = -exp(A_log)
  block<T, S, M.heads> d;         ///< skip term; in the published variant both directions read the first one's
  block<T, S, M.d_inner()> norm;  ///< weight of the gated RMSNorm
};

/// Both directions.
template <mixer_shape M, class T, space S = space::host>
struct mixer_parameters {
  mixer_direction<M, T, S> forward;   ///< the state dict's names without a suffix
  mixer_direction<M, T, S> backward;  ///< those with `_b`
};

/// Taps and bias of the attention's convolution, or their gradients; views of nothing where it has none.
template <attention_shape A, class T, space S = space::host>
struct attention_parameters {
  /// Taps a channel; 1 where there is no convolution, so that the type exists.
  static constexpr int taps = A.d_conv == 0 ? 1 : A.d_conv;
  block<T, S, 3 * A.width(), 1, taps> conv;  ///< channels [q, k, v]; the last tap is the present token
  block<T, S, 3 * A.width()> conv_bias;      ///< [3 H d]
};

/// The arguments of a scan over a batch of sequences: T is the type of x, B and C, F that of steps, rates and skips.
template <mixer_shape M, class T, space S = space::host, class F = T>
struct ssd_input {
  rows<T const, M.d_inner(), S> x;           ///< [B L, H P]
  rows<F const, M.heads, S> dt;              ///< [B L, H], after softplus, >= 0
  block<F const, S, M.heads> a;              ///< [H], negative
  rows<T const, M.groups * M.d_state, S> b;  ///< [B L, G N]
  rows<T const, M.groups * M.d_state, S> c;  ///< [B L, G N]
  block<F const, S, M.heads> d;              ///< [H], the skip term
  int length;                                ///< L, tokens a sequence

  /// Throws shape_error unless every operand has the same whole number of sequences; returns that number.
  [[nodiscard]] int sequences() const {
    int const count = whole_sequences("ssd.x", x.count, length);
    require_extent("ssd.dt rows", dt.count, x.count);
    require_extent("ssd.b rows", b.count, x.count);
    require_extent("ssd.c rows", c.count, x.count);
    return count;
  }
};

/// Gradients of a scan over a batch of sequences; T and F as in ssd_input.
template <mixer_shape M, class T, space S = space::host, class F = T>
struct ssd_gradient {
  rows<T, M.d_inner(), S> x;           ///< (=)
  rows<F, M.heads, S> dt;              ///< (=)
  block<F, S, M.heads> a;              ///< (+=)
  rows<T, M.groups * M.d_state, S> b;  ///< (=)
  rows<T, M.groups * M.d_state, S> c;  ///< (=)
  block<F, S, M.heads> d;              ///< (+=)
};

/// Both classifiers' parameters, or their gradients.
template <class T, int K, int D, space S = space::host, class W = T>
struct head_parameters {
  linear_parameters<T, K, D, S, W> cls;  ///< of the class token
  linear_parameters<T, K, D, S, W> aux;  ///< of each patch
};

/// A box on the patch grid, half open: rows [row0, row1), columns [col0, col1).
struct mix_box {
  int row0 = 0;  ///< first row
  int row1 = 0;  ///< row after the last
  int col0 = 0;  ///< first column
  int col1 = 0;  ///< column after the last

  /// Patches inside; 0 where a side is empty or turned round.
  [[nodiscard]] constexpr int area() const { return std::max(0, row1 - row0) * std::max(0, col1 - col0); }
};

/// Pictures in that many rows of a grid of height x width patches.
///
/// Throws shape_error, in mix_tokens' name, unless they are whole and the box lies in the grid.
inline int require_mix_box(std::size_t grid_rows, int height, int width, mix_box box) {
  std::string const size = std::to_string(height) + " x " + std::to_string(width);
  int const pictures = require_whole("mix_tokens.grid", grid_rows, "patches", std::int64_t{height} * width, size);
  if (box.row0 < 0 || box.row1 > height || box.col0 < 0 || box.col1 > width)
    throw shape_error{"mix_tokens.box: got rows [" + std::to_string(box.row0) + ", " + std::to_string(box.row1) +
                      "), columns [" + std::to_string(box.col0) + ", " + std::to_string(box.col1) +
                      "), expected it inside " + size};
  return pictures;
}

/// Rows of a target that are one number everywhere but at a few classes: row r is base[r], plus extra[i] at class
/// index[i] for begin[r] <= i < begin[r + 1].
template <class T>
struct sparse_rows {
  T const* base;               ///< [count]
  std::uint32_t const* begin;  ///< [count + 1]
  std::uint32_t const* index;  ///< [begin[count]], classes
  T const* extra;              ///< [begin[count]], added to the base
  std::size_t count;           ///< rows
};

}  // namespace dm2
