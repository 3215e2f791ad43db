/// @file
/// The backward of the stem for any shape and precision, as products with gathered columns.
#pragma once

#include <dm2/cuda/stem_train/general.cuh>

namespace dm2::cuda::detail {

/// The backward of `batch` pictures. Where the context plans, only the products are looked up.
template <stem_shape S, precision P, class Reader>
class stem_general_backward {
  using T = element<P>;
  using number = stem_number<T>;
  using G = stem_geometry<S>;
  using M = stem_matrices<S>;
  using parameters = stem_parameters<S, float const, space::device>;
  using gradients = stem_parameters<S, float, space::device>;
  static constexpr std::size_t plane = stem_saved<S, T>::plane;

 public:
  stem_general_backward(context<P>& ctx, parameters const& p, stem_saved<S, T> const& saved,
                        stem_general_scratch<S, T> const& scratch, stem_general_gradients<S, T> const& between,
                        int batch, bool run)
      : ctx_{ctx}, p_{p}, saved_{saved}, s_{scratch}, d_{between}, batch_{batch}, run_{run} {}

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
    arrange_weights<stem_order::forward, S.hidden, S.channels, 49>(ctx_.stream(), p_.conv1.data, s_.conv[0], M::conv1);
    for (std::size_t i = 0; i < 2; ++i)
      arrange_weights<stem_order::mirrored, S.hidden, S.hidden, 9>(ctx_.stream(), p_.conv[i].data, d_.mirrored[i],
                                                                   M::conv3);
    arrange_weights<stem_order::forward, S.dim, S.hidden, M::side * M::side>(ctx_.stream(), p_.proj.data, s_.proj,
                                                                             M::project);
  }
  template <bool Patches>
  void gather(std::size_t from, int b, int n) const {
    gather_columns<G, Patches, M::conv3_row>(
        ctx_.stream(),
        norm_columns<G, number>{saved_.raw[from] + std::size_t(b) * plane, stem_norm_of<S>(p_, saved_, from)},
        s_.columns, n);
  }
  /// dproj += dgrid^T patches, and d_.da = dgrid proj.
  void project(T const* dgrid) const {
    for (int b = 0; b < batch_; b += s_.pictures) {
      int const n = std::min(s_.pictures, batch_ - b);
      std::int64_t const rows = std::int64_t{n} * G::tokens;
      matrix<T const> const dy{stem_skip(dgrid, std::size_t(b) * G::tokens * S.dim), rows, S.dim};
      if (run_)
        activate(ctx_.stream(), saved_.raw[2] + std::size_t(b) * plane, stem_norm_of<S>(p_, saved_, 2), S.hidden,
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
    stem_train_norm const n = stem_norm_of<S>(p_, saved_, Stage);
    sum_terms(ctx_.stream(), stem_norm_terms<number, T>{saved_.raw[Stage], d_.da, n}, pixels, S.hidden, s_.sums);
    finish_norm_gradient(ctx_.stream(), s_.sums, stem_sum_count, S.hidden, pixels, n, grad.bn_weight[Stage].data,
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
    sum_terms(ctx_.stream(), stem_moments<T>{dgrid}, std::ptrdiff_t{batch_} * G::tokens, S.dim, s_.sums);
    add_sums(ctx_.stream(), s_.sums, stem_sum_count, S.dim, grad.proj_bias.data);
  }

  context<P>& ctx_;
  parameters const& p_;
  stem_saved<S, T> const& saved_;
  stem_general_scratch<S, T> const& s_;
  stem_general_gradients<S, T> const& d_;
  int batch_;
  bool run_;
};

}  // namespace dm2::cuda::detail
