/// @file
/// The stem in training for any shape and precision: convolutions as products with gathered columns.
///
/// Columns of a bounded number of pictures are gathered at a time. Nothing of the forward but the raw outputs is kept;
/// BatchNorm with ReLU is computed again wherever its result is read.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/gemm.cuh>
#include <dm2/cuda/memory.cuh>
#include <dm2/cuda/stem/layout.cuh>
#include <dm2/cuda/stem_train/batch_norm.cuh>
#include <dm2/cuda/stem_train/columns.cuh>
#include <dm2/cuda/stem_train/saved.cuh>
#include <dm2/cuda/stem_train/sums.cuh>
#include <dm2/cuda/stem_train/weights.cuh>

#include <algorithm>
#include <array>
#include <cstddef>
#include <type_traits>

namespace dm2::cuda::detail {

/// Most bytes of the columns that are gathered at a time; one picture's where those are more.
inline constexpr std::size_t stem_columns_bytes = std::size_t{256} << 20;

/// p + n, and null for null.
template <class T>
T* stem_skip(T* p, std::size_t n) {
  return p == nullptr ? p : p + n;
}

/// Scratch of the forward; columns hold the inputs of any of the convolutions for `pictures` pictures. Products read T;
/// a grid of another type U is written by way of floats.
template <stem_shape S, class T, class U = T>
struct stem_general_scratch {
  using G = stem_geometry<S>;
  using M = stem_matrices<S>;
  int pictures;            ///< that go together
  std::array<T*, 3> conv;  ///< the convolutions' matrices
  T *proj, *columns;
  float* grid;   ///< [pictures * tokens, dim], or null
  double* sums;  ///< [stem_sum_count, 2, the most channels]

  stem_general_scratch(arena& a, int batch, std::size_t most = stem_columns_bytes) {
    constexpr std::size_t numbers = std::size_t(G::plane_pixels) * M::widest_row;
    pictures = std::clamp(int(most / (numbers * sizeof(T))), 1, std::max(batch, 1));
    for (std::size_t i = 0; i < 3; ++i) conv[i] = a.take<T>(M::size(i));
    proj = a.take<T>(M::project);
    columns = a.take<T>(std::size_t(pictures) * numbers);
    grid = std::is_same_v<T, U> ? nullptr : a.take<float>(std::size_t(pictures) * G::tokens * S.dim);
    sums = a.take<double>(std::size_t{2} * stem_sum_count * std::size_t(std::max(S.hidden, S.dim)));
  }
};

/// What the backward needs beside: 411 MB for 256 pictures of Tiny in 16 bits, and the weights' gradients.
template <stem_shape S, class T>
struct stem_general_gradients {
  using M = stem_matrices<S>;
  T* da;                       ///< [B, H / 2, W / 2, hidden], the gradient that is on its way down, as raw lies
  std::array<T*, 2> mirrored;  ///< of the second and third convolution
  std::array<float*, 3> dconv;
  float *dproj, *means;

  stem_general_gradients(arena& a, int batch) {
    da = a.take<T>(std::size_t(batch) * stem_saved<S, T>::plane);
    for (T*& m : mirrored) m = a.take<T>(M::conv3);
    for (std::size_t i = 0; i < 3; ++i) dconv[i] = a.take<float>(M::size(i));
    dproj = a.take<float>(M::project);
    means = a.take<float>(std::size_t{2} * S.hidden);
  }
};

/// BatchNorm after convolution `stage`.
template <stem_shape S, class T>
stem_train_norm stem_norm_of(stem_parameters<S, float const, space::device> const& p, stem_saved<S, T> const& saved,
                             std::size_t stage) {
  return {p.bn_weight[stage].data, p.bn_bias[stage].data, saved.mean[stage], saved.rstd[stage]};
}

/// The forward of `batch` pictures; multiplies numbers of stem_number. Where the context plans, only the products are
/// looked up.
template <stem_shape S, precision P, class Reader>
class stem_general_forward {
  using T = element<P>;
  using number = stem_number<T>;
  using scratch_type = stem_general_scratch<S, number, T>;
  using G = stem_geometry<S>;
  using M = stem_matrices<S>;
  static constexpr std::size_t plane = stem_saved<S, T>::plane;

 public:
  stem_general_forward(context<P>& ctx, stem_parameters<S, float const, space::device> const& p,
                       stem_saved<S, T> const& saved, scratch_type const& scratch, int batch, bool run)
      : ctx_{ctx}, p_{p}, saved_{saved}, s_{scratch}, batch_{batch}, run_{run} {}

  void operator()(Reader const& picture, stem_statistics<S, float, space::device> const& running, T* grid) const {
    if (run_) arrange();
    stage<0, false>([&](int b, int n) {
      gather_columns<G, false, M::conv1_row>(ctx_.stream(), picture_columns<G, Reader>{picture.skip(b)}, s_.columns, n);
    });
    finish(0, running);
    stage<1, false>([&](int b, int n) { gather<false>(0, b, n); });
    finish(1, running);
    stage<2, true>([&](int b, int n) { gather<true>(1, b, n); });
    finish(2, running);
    project(grid);
  }

 private:
  void arrange() const {
    constexpr auto order = stem_order::forward;
    arrange_weights<order, S.hidden, S.channels, 49>(ctx_.stream(), p_.conv1.data, s_.conv[0], M::conv1);
    for (std::size_t i = 0; i < 2; ++i)
      arrange_weights<order, S.hidden, S.hidden, 9>(ctx_.stream(), p_.conv[i].data, s_.conv[i + 1], M::conv3);
    arrange_weights<order, S.dim, S.hidden, M::side * M::side>(ctx_.stream(), p_.proj.data, s_.proj, M::project);
  }
  template <bool Patches>
  void gather(std::size_t from, int b, int n) const {
    gather_columns<G, Patches, M::conv3_row>(
        ctx_.stream(),
        norm_columns<G, number>{saved_.raw[from] + std::size_t(b) * plane, stem_norm_of<S>(p_, saved_, from)},
        s_.columns, n);
  }
  template <std::size_t Stage, bool Patches, class Gather>
  void stage(Gather const& columns) const {
    for (int b = 0; b < batch_; b += s_.pictures) {
      int const n = std::min(s_.pictures, batch_ - b);
      std::int64_t const rows = std::int64_t{n} * G::plane_pixels;
      if (run_) columns(b, n);
      gemm<op::plain, op::transposed>(
          ctx_, matrix<number const>{s_.columns, rows, M::row(Stage)},
          matrix<number const>{s_.conv[Stage], S.hidden, M::row(Stage)},
          matrix<number>{stem_skip(saved_.raw[Stage], std::size_t(b) * plane), rows, S.hidden});
    }
  }
  void finish(std::size_t stage, stem_statistics<S, float, space::device> const& running) const {
    if (!run_) return;
    std::ptrdiff_t const pixels = std::ptrdiff_t{batch_} * G::plane_pixels;
    sum_terms(ctx_.stream(), stem_moments<number>{saved_.raw[stage]}, pixels, S.hidden, s_.sums);
    finish_statistics(ctx_.stream(), s_.sums, stem_sum_count, S.hidden, pixels,
                      {saved_.mean[stage], saved_.rstd[stage], running.mean[stage].data, running.var[stage].data});
  }
  void project(T* grid) const {
    for (int b = 0; b < batch_; b += s_.pictures) {
      int const n = std::min(s_.pictures, batch_ - b);
      std::int64_t const rows = std::int64_t{n} * G::tokens;
      if (run_)
        activate(ctx_.stream(), saved_.raw[2] + std::size_t(b) * plane, stem_norm_of<S>(p_, saved_, 2), S.hidden,
                 std::ptrdiff_t{n} * G::plane_pixels, s_.columns);
      matrix<number const> const patches{s_.columns, rows, M::depth}, weights{s_.proj, S.dim, M::depth, M::project_row};
      T* const to = stem_skip(grid, std::size_t(b) * G::tokens * S.dim);
      if constexpr (std::is_same_v<T, number>) {
        gemm<op::plain, op::transposed>(ctx_, patches, weights, matrix<T>{to, rows, S.dim},
                                        {nullptr, p_.proj_bias.data});
      } else {
        gemm<op::plain, op::transposed>(ctx_, patches, weights, matrix<float>{s_.grid, rows, S.dim},
                                        {nullptr, p_.proj_bias.data});
        if (run_) round(ctx_, s_.grid, std::size_t(rows) * S.dim, to);
      }
    }
  }

  context<P>& ctx_;
  stem_parameters<S, float const, space::device> const& p_;
  stem_saved<S, T> const& saved_;
  scratch_type const& s_;
  int batch_;
  bool run_;
};

}  // namespace dm2::cuda::detail
