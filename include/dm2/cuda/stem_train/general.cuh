/// @file
/// The stem in training, general form: any shape and precision.
///
/// Convolutions are products with gathered columns.
///
/// Columns of a bounded number of pictures are gathered at a time. Nothing of the forward but the raw outputs is kept;
/// BatchNorm with ReLU is computed again wherever its result is read.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/gemm.cuh>
#include <dm2/cuda/memory.cuh>
#include <dm2/cuda/stem/layout.cuh>
#include <dm2/cuda/stem/plane.cuh>
#include <dm2/cuda/stem_train/batch_norm.cuh>
#include <dm2/cuda/stem_train/saved.cuh>
#include <dm2/cuda/stem_train/weights.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <algorithm>
#include <array>
#include <cstddef>
#include <type_traits>

namespace dm2::cuda::detail::stem_train {

// The inputs of the stem's convolutions as matrices: for each output pixel a row of what lies under the kernel.

/// Row and column of pixel `at` of a plane in memory, pixel after pixel or patch after patch.
template <class G, bool Patches>
__device__ inline int2 plane_coordinates(int at) {
  if constexpr (Patches) {
    int const token = at / (G::side * G::side), in = at % (G::side * G::side);
    return make_int2(token / G::grid_width * G::side + in / G::side, token % G::grid_width * G::side + in % G::side);
  } else {
    return make_int2(at / G::plane_width, at % G::plane_width);
  }
}

/// What a row of columns holds: pixels (stride y - before + tap row, ...) of a source.
///
/// The pictures, under the first convolution.
template <class G, class Reader>
struct picture_columns {
  static constexpr int kernel = 7, inner = G::channels, stride = 2, before = 3;
  static constexpr int height = G::height, width = G::width;
  Reader picture;

  __device__ float operator()(int b, int y, int x, int c) const { return picture(b, y, x, c); }
};

/// relu(BatchNorm(raw)), under a 3 x 3 convolution.
template <class G, class T>
struct norm_columns {
  static constexpr int kernel = 3, inner = G::hidden, stride = 1, before = 1;
  static constexpr int height = G::plane_height, width = G::plane_width;
  T const* raw;
  batch_norm norm;

  __device__ float operator()(int b, int y, int x, int c) const {
    return activated(to_float(raw[stem::plane_position<G, false>(b, y, x) * G::hidden + c]), norm.affine(c));
  }
};

/// A gradient as it lies, under the mirrored 3 x 3 convolution.
template <class G, bool Patches, class T>
struct gradient_columns {
  static constexpr int kernel = 3, inner = G::hidden, stride = 1, before = 1;
  static constexpr int height = G::plane_height, width = G::plane_width;
  T const* gradient;

  __device__ float operator()(int b, int y, int x, int c) const {
    return to_float(gradient[stem::plane_position<G, Patches>(b, y, x) * G::hidden + c]);
  }
};

/// out [pictures * plane pixels, Row]: a row of taps and channels an output pixel, zeros outside the picture and past
/// the last tap; the rows lie pixel after pixel or patch after patch. A block a pixel after another.
template <class G, bool Patches, int Row, class Source, class T>
__global__ void __launch_bounds__(128) columns_kernel(Source source, T* __restrict__ out, int rows) {
  for (int row = int(blockIdx.x); row < rows; row += int(gridDim.x)) {
    int2 const at = plane_coordinates<G, Patches>(row % G::plane_pixels);
    for (int k = int(threadIdx.x); k < Row; k += 128) {
      int const tap = k / Source::inner, c = k % Source::inner;
      int const y = Source::stride * at.x - Source::before + tap / Source::kernel;
      int const x = Source::stride * at.y - Source::before + tap % Source::kernel;
      bool const inside = tap < Source::kernel * Source::kernel && unsigned(y) < unsigned(Source::height) &&
                          unsigned(x) < unsigned(Source::width);
      out[std::ptrdiff_t{row} * Row + k] = from_float<T>(inside ? source(row / G::plane_pixels, y, x, c) : 0.f);
    }
  }
}

template <class G, bool Patches, int Row, class Source, class T>
void gather_columns(cudaStream_t stream, Source const& source, T* out, int pictures) {
  int const rows = pictures * G::plane_pixels;
  launch("stem: columns", columns_kernel<G, Patches, Row, Source, T>, {unsigned(std::min(rows, 1 << 16)), 128}, stream,
         source, out, rows);
}

/// out = relu(BatchNorm(raw)) as it lies. A thread a number.
template <class R, class T>
__global__ void __launch_bounds__(256)
    activate_kernel(R const* __restrict__ raw, batch_norm norm, int width, std::ptrdiff_t size, T* __restrict__ out) {
  std::ptrdiff_t const i = std::ptrdiff_t{blockIdx.x} * 256 + threadIdx.x;
  if (i < size) out[i] = from_float<T>(activated(to_float(raw[i]), norm.affine(int(i % width))));
}

template <class R, class T>
void activate(cudaStream_t stream, R const* raw, batch_norm const& norm, int width, std::ptrdiff_t pixels, T* out) {
  launch("stem: BatchNorm and ReLU", activate_kernel<R, T>, {blocks_for(std::size_t(pixels * width), 256), 256}, stream,
         raw, norm, width, pixels * width, out);
}

/// dpicture [pictures, C, H, W] from the gradient of the first convolution's columns [pixels, Row]: the sum over the
/// taps that read a pixel, in their order. A thread a pixel.
template <class G, int Row, class T>
__global__ void __launch_bounds__(256)
    picture_gradient_kernel(T const* __restrict__ columns, float* __restrict__ dpicture, std::ptrdiff_t size) {
  std::ptrdiff_t const i = std::ptrdiff_t{blockIdx.x} * 256 + threadIdx.x;
  if (i >= size) return;
  int const x = int(i % G::width), y = int(i / G::width % G::height);
  int const c = int(i / (G::width * G::height) % G::channels);
  std::ptrdiff_t const b = i / (std::ptrdiff_t{G::width} * G::height * G::channels);
  float sum = 0;
  for (int ky = (y + 1) % 2; ky < 7; ky += 2)
    for (int kx = (x + 1) % 2; kx < 7; kx += 2) {
      int const oy = (y + 3 - ky) / 2, ox = (x + 3 - kx) / 2;  // both even before the division
      if (y + 3 < ky || x + 3 < kx || oy >= G::plane_height || ox >= G::plane_width) continue;
      sum +=
          to_float(columns[(b * G::plane_pixels + oy * G::plane_width + ox) * Row + (ky * 7 + kx) * G::channels + c]);
    }
  dpicture[i] = sum;
}

template <class G, int Row, class T>
void picture_gradient(cudaStream_t stream, T const* columns, float* dpicture, int pictures) {
  std::ptrdiff_t const size = std::ptrdiff_t{pictures} * G::channels * G::height * G::width;
  launch("stem: gradient of the pictures", picture_gradient_kernel<G, Row, T>,
         {blocks_for(std::size_t(size), 256), 256}, stream, columns, dpicture, size);
}

/// Most bytes of the columns that are gathered at a time; one picture's where those are more.
inline constexpr std::size_t columns_bytes = std::size_t{256} << 20;

/// p + n, and null for null.
template <class T>
T* skip_pictures(T* p, std::size_t n) {
  return p == nullptr ? p : p + n;
}

/// Scratch of the forward; columns hold the inputs of any of the convolutions for `pictures` pictures. Products read T;
/// a grid of another type U is written by way of floats.
template <stem_shape S, class T, class U = T>
struct general_scratch {
  using G = stem::geometry<S>;
  using M = matrices<S>;
  int pictures;            ///< that go together
  std::array<T*, 3> conv;  ///< the convolutions' matrices
  T *proj, *columns;
  float* grid;   ///< [pictures * tokens, dim], or null
  double* sums;  ///< [sum_count, 2, the most channels]

  general_scratch(arena& a, int batch, std::size_t most = columns_bytes) {
    constexpr std::size_t numbers = std::size_t(G::plane_pixels) * M::widest_row;
    pictures = std::clamp(int(most / (numbers * sizeof(T))), 1, std::max(batch, 1));
    for (std::size_t i = 0; i < 3; ++i) conv[i] = a.take<T>(M::size(i));
    proj = a.take<T>(M::project);
    columns = a.take<T>(std::size_t(pictures) * numbers);
    grid = std::is_same_v<T, U> ? nullptr : a.take<float>(std::size_t(pictures) * G::tokens * S.dim);
    sums = a.take<double>(std::size_t{2} * sum_count * std::size_t(std::max(S.hidden, S.dim)));
  }
};

/// What the backward needs beside: 411 MB for 256 pictures of Tiny in 16 bits, and the weights' gradients.
template <stem_shape S, class T>
struct general_gradients {
  using M = matrices<S>;
  T* da;                       ///< [B, H / 2, W / 2, hidden], the gradient that is on its way down, as raw lies
  std::array<T*, 2> mirrored;  ///< of the second and third convolution
  std::array<float*, 3> dconv;
  float *dproj, *means;

  general_gradients(arena& a, int batch) {
    da = a.take<T>(std::size_t(batch) * stem_saved<S, T>::plane);
    for (T*& m : mirrored) m = a.take<T>(M::conv3);
    for (std::size_t i = 0; i < 3; ++i) dconv[i] = a.take<float>(M::size(i));
    dproj = a.take<float>(M::project);
    means = a.take<float>(std::size_t{2} * S.hidden);
  }
};

/// BatchNorm after convolution `stage`.
template <stem_shape S, class T>
batch_norm norm_of(stem_parameters<S, float const, space::device> const& p, stem_saved<S, T> const& saved,
                   std::size_t stage) {
  return {p.bn_weight[stage].data, p.bn_bias[stage].data, saved.mean[stage], saved.rstd[stage]};
}

/// The forward of `batch` pictures; multiplies numbers of stem_number. Where the context plans, only the products are
/// looked up.
template <stem_shape S, precision P, class Reader>
class general_forward {
  using T = element<P>;
  using number = stem_number<T>;
  using scratch_type = general_scratch<S, number, T>;
  using G = stem::geometry<S>;
  using M = matrices<S>;
  static constexpr std::size_t plane = stem_saved<S, T>::plane;

 public:
  general_forward(context<P>& ctx, stem_parameters<S, float const, space::device> const& p,
                  stem_saved<S, T> const& saved, scratch_type const& scratch, int batch, bool run, bool fixed)
      : ctx_{ctx}, p_{p}, saved_{saved}, s_{scratch}, batch_{batch}, run_{run}, fixed_{fixed} {}

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
    constexpr auto order = order::forward;
    arrange_weights<order, S.hidden, S.channels, 49>(ctx_.stream(), p_.conv1.data, s_.conv[0], M::conv1);
    for (std::size_t i = 0; i < 2; ++i)
      arrange_weights<order, S.hidden, S.hidden, 9>(ctx_.stream(), p_.conv[i].data, s_.conv[i + 1], M::conv3);
    arrange_weights<order, S.dim, S.hidden, M::side * M::side>(ctx_.stream(), p_.proj.data, s_.proj, M::project);
  }
  template <bool Patches>
  void gather(std::size_t from, int b, int n) const {
    gather_columns<G, Patches, M::conv3_row>(
        ctx_.stream(), norm_columns<G, number>{saved_.raw[from] + std::size_t(b) * plane, norm_of<S>(p_, saved_, from)},
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
          matrix<number>{skip_pictures(saved_.raw[Stage], std::size_t(b) * plane), rows, S.hidden});
    }
  }
  void finish(std::size_t stage, stem_statistics<S, float, space::device> const& running) const {
    if (!run_) return;
    std::ptrdiff_t const pixels = std::ptrdiff_t{batch_} * G::plane_pixels;
    if (!fixed_) sum_terms(ctx_.stream(), moments<number>{saved_.raw[stage]}, pixels, S.hidden, s_.sums);
    finish_statistics(
        ctx_.stream(), s_.sums, fixed_ ? 0 : sum_count, S.hidden, pixels,
        {saved_.mean[stage], saved_.rstd[stage], running.mean[stage].data, running.var[stage].data, fixed_});
  }
  void project(T* grid) const {
    for (int b = 0; b < batch_; b += s_.pictures) {
      int const n = std::min(s_.pictures, batch_ - b);
      std::int64_t const rows = std::int64_t{n} * G::tokens;
      if (run_)
        activate(ctx_.stream(), saved_.raw[2] + std::size_t(b) * plane, norm_of<S>(p_, saved_, 2), S.hidden,
                 std::ptrdiff_t{n} * G::plane_pixels, s_.columns);
      matrix<number const> const patches{s_.columns, rows, M::depth}, weights{s_.proj, S.dim, M::depth, M::project_row};
      T* const to = skip_pictures(grid, std::size_t(b) * G::tokens * S.dim);
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
  bool run_, fixed_;
};

// The backward of the stem for any shape and precision, as products with gathered columns.

/// The backward of `batch` pictures. Where the context plans, only the products are looked up.
template <stem_shape S, precision P, class Reader>
class general_backward {
  using T = element<P>;
  using number = stem_number<T>;
  using G = stem::geometry<S>;
  using M = matrices<S>;
  using parameters = stem_parameters<S, float const, space::device>;
  using gradients = stem_parameters<S, float, space::device>;
  static constexpr std::size_t plane = stem_saved<S, T>::plane;

 public:
  general_backward(context<P>& ctx, parameters const& p, stem_saved<S, T> const& saved,
                   general_scratch<S, T> const& scratch, general_gradients<S, T> const& gradients, int batch, bool run)
      : ctx_{ctx}, p_{p}, saved_{saved}, s_{scratch}, d_{gradients}, batch_{batch}, run_{run} {}

  void operator()(Reader const& picture, T const* dgrid, gradients const& grad, float* dpicture) const {
    if (run_) arrange();
    project(dgrid);
    norm<2>(grad);
    stage<2>([&](int b, int n) { gather<true>(1, b, n); }, [&](int b, int n) { input<2, true>(b, n); });
    norm<1>(grad);
    stage<1>([&](int b, int n) { gather<false>(0, b, n); }, [&](int b, int n) { input<1, false>(b, n); });
    norm<0>(grad);
    stage<0>(
        [&](int b, int n) {
          gather_columns<G, false, M::conv1_row>(ctx_.stream(), picture_columns<G, Reader>{picture.skip(b)}, s_.columns,
                                                 n);
        },
        [&](int b, int n) { pictures(b, n, dpicture); });
    if (run_) finish(dgrid, grad);
  }

 private:
  void arrange() const {
    arrange_weights<order::forward, S.hidden, S.channels, 49>(ctx_.stream(), p_.conv1.data, s_.conv[0], M::conv1);
    for (std::size_t i = 0; i < 2; ++i)
      arrange_weights<order::mirrored, S.hidden, S.hidden, 9>(ctx_.stream(), p_.conv[i].data, d_.mirrored[i], M::conv3);
    arrange_weights<order::forward, S.dim, S.hidden, M::side * M::side>(ctx_.stream(), p_.proj.data, s_.proj,
                                                                        M::project);
  }
  template <bool Patches>
  void gather(std::size_t from, int b, int n) const {
    gather_columns<G, Patches, M::conv3_row>(
        ctx_.stream(), norm_columns<G, number>{saved_.raw[from] + std::size_t(b) * plane, norm_of<S>(p_, saved_, from)},
        s_.columns, n);
  }
  /// dproj += dgrid^T patches, and d_.da = dgrid proj.
  void project(T const* dgrid) const {
    for (int b = 0; b < batch_; b += s_.pictures) {
      int const n = std::min(s_.pictures, batch_ - b);
      std::int64_t const rows = std::int64_t{n} * G::tokens;
      matrix<T const> const dy{skip_pictures(dgrid, std::size_t(b) * G::tokens * S.dim), rows, S.dim};
      if (run_)
        activate(ctx_.stream(), saved_.raw[2] + std::size_t(b) * plane, norm_of<S>(p_, saved_, 2), S.hidden,
                 std::ptrdiff_t{n} * G::plane_pixels, s_.columns);
      gemm<op::transposed, op::plain>(ctx_, dy, matrix<T const>{s_.columns, rows, M::depth},
                                      matrix<float>{d_.dproj, S.dim, M::depth, M::project_row},
                                      {b == 0 ? nullptr : d_.dproj});
      gemm<op::plain, op::plain>(ctx_, dy, matrix<T const>{s_.proj, S.dim, M::depth, M::project_row},
                                 matrix<T>{d_.da + std::size_t(b) * plane, rows, M::depth});
    }
  }
  /// The gradient of BatchNorm's parameters; d_.da becomes the gradient of the convolution's output.
  template <std::size_t Stage>
  void norm(gradients const& grad) const {
    if (!run_) return;
    std::ptrdiff_t const pixels = std::ptrdiff_t{batch_} * G::plane_pixels;
    batch_norm const n = norm_of<S>(p_, saved_, Stage);
    sum_terms(ctx_.stream(), norm_terms<number, T>{saved_.raw[Stage], d_.da, n}, pixels, S.hidden, s_.sums);
    finish_norm_gradient(ctx_.stream(), s_.sums, sum_count, S.hidden, pixels, n, grad.bn_weight[Stage].data,
                         grad.bn_bias[Stage].data, d_.means);
    norm_backward(ctx_.stream(), saved_.raw[Stage], d_.da, {n, d_.means}, S.hidden, pixels);
  }
  template <std::size_t Stage, class Gather, class Input>
  void stage(Gather const& columns, Input const& input_gradient) const {
    for (int b = 0; b < batch_; b += s_.pictures) {
      int const n = std::min(s_.pictures, batch_ - b);
      std::int64_t const rows = std::int64_t{n} * G::plane_pixels;
      if (run_) columns(b, n);
      gemm<op::transposed, op::plain>(ctx_, matrix<T const>{d_.da + std::size_t(b) * plane, rows, S.hidden},
                                      matrix<T const>{s_.columns, rows, M::row(Stage)},
                                      matrix<float>{d_.dconv[Stage], S.hidden, M::row(Stage)},
                                      {b == 0 ? nullptr : d_.dconv[Stage]});
      input_gradient(b, n);
    }
  }
  /// d_.da of pictures [b, b + n) = the gradient of the convolution's input: their columns are all that it is read for.
  template <std::size_t Stage, bool Patches>
  void input(int b, int n) const {
    T* const da = d_.da + std::size_t(b) * plane;
    std::int64_t const rows = std::int64_t{n} * G::plane_pixels;
    if (run_) gather_columns<G, false, M::conv3_row>(ctx_.stream(), gradient_columns<G, Patches, T>{da}, s_.columns, n);
    gemm<op::plain, op::transposed>(ctx_, matrix<T const>{s_.columns, rows, M::conv3_row},
                                    matrix<T const>{d_.mirrored[Stage - 1], S.hidden, M::conv3_row},
                                    matrix<T>{da, rows, S.hidden});
  }
  /// dpicture of pictures [b, b + n), unless it is null.
  void pictures(int b, int n, float* dpicture) const {
    if (dpicture == nullptr && run_) return;
    std::int64_t const rows = std::int64_t{n} * G::plane_pixels;
    gemm<op::plain, op::plain>(ctx_, matrix<T const>{d_.da + std::size_t(b) * plane, rows, S.hidden},
                               matrix<T const>{s_.conv[0], S.hidden, M::conv1_row},
                               matrix<T>{s_.columns, rows, M::conv1_row});
    if (run_)
      picture_gradient<G, M::conv1_row>(ctx_.stream(), s_.columns,
                                        dpicture + std::size_t(b) * S.channels * S.height * S.width, n);
  }
  /// Adds the matrices' gradients, and that of the projection's bias, to the parameters'.
  void finish(T const* dgrid, gradients const& grad) const {
    add_gradient<S.hidden, S.channels, 49>(ctx_.stream(), d_.dconv[0], grad.conv1.data);
    for (std::size_t i = 0; i < 2; ++i)
      add_gradient<S.hidden, S.hidden, 9>(ctx_.stream(), d_.dconv[i + 1], grad.conv[i].data);
    add_gradient<S.dim, S.hidden, M::side * M::side>(ctx_.stream(), d_.dproj, grad.proj.data);
    sum_terms(ctx_.stream(), moments<T>{dgrid}, std::ptrdiff_t{batch_} * G::tokens, S.dim, s_.sums);
    add_sums(ctx_.stream(), s_.sums, sum_count, S.dim, grad.proj_bias.data);
  }

  context<P>& ctx_;
  parameters const& p_;
  stem_saved<S, T> const& saved_;
  general_scratch<S, T> const& s_;
  general_gradients<S, T> const& d_;
  int batch_;
  bool run_;
};

}  // namespace dm2::cuda::detail::stem_train
