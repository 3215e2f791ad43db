/// @file
/// The backward of the stem on tensor cores.
///
/// What goes down is dz, the gradient of BatchNorm's output where ReLU let it through. The kernel that computes it sums
/// what BatchNorm's own backward needs; the next one, of the convolution's weights, forms the gradient of the
/// convolution's output from dz and the raw output in shared memory, and leaves it in dz's place for the gradient of the
/// input. Planes read and written, of 1.6 MB a picture at Tiny's size: 2 and 1 by the projection, 5 and 2 by each 3 x 3
/// convolution, 2 by the first one.
#pragma once

#include <dm2/cuda/stem_train/tensor.cuh>

namespace dm2::cuda::detail {

/// The backward of `batch` pictures, but for the gradient of the pictures.
template <stem_shape S, class T, class Reader>
class stem_tensor_backward {
  using kernels = stem_tensor_kernels<S, T>;
  using layouts = typename kernels::layouts;
  using G = stem_geometry<S>;
  using parameters = stem_parameters<S, float const, space::device>;
  using gradients = stem_parameters<S, float, space::device>;

 public:
  stem_tensor_backward(cudaStream_t stream, device_properties const& device, parameters const& p,
                       stem_saved<S, T> const& saved, stem_tensor_gradients<S, T> const& between, int batch)
      : stream_{stream}, device_{device}, p_{p}, saved_{saved}, d_{between}, batch_{batch} {}

  /// All steps.
  void operator()(Reader const& picture, T const* dgrid, gradients const& grad) const {
    arrange();
    project_weights(dgrid, grad);
    project_input(dgrid, grad);
    weights<2, true>(d_.dz[0], grad);
    input<2, true>(d_.dz[0], d_.dz[1], grad);
    weights<1, false>(d_.dz[1], grad);
    input<1, false>(d_.dz[1], d_.dz[0], grad);
    first_weights(picture, grad);
  }

  // The steps, in this order.

  void arrange() const {
    for (std::size_t i = 0; i < 2; ++i)
      lay_out_weights<typename layouts::conv3, true, S.hidden, S.hidden, 9>(stream_, p_.conv[i].data, d_.mirrored[i]);
    lay_out_weights<typename kernels::input_layout, false, S.dim, S.hidden, G::side * G::side>(stream_, p_.proj.data,
                                                                                               d_.proj);
  }
  /// The projection's weights and bias.
  void project_weights(T const* dgrid, gradients const& grad) const {
    int const rows = batch_ * G::tokens;
    launch_project_weights<G>(stream_, device_.multiprocessors, dgrid, saved_.raw[2], stem_norm_of<S>(p_, saved_, 2),
                              rows, d_.parts, grad.proj.data);
    sum_terms(stream_, stem_moments<T>{dgrid}, rows, S.dim, d_.bias_sums);
    add_sums(stream_, d_.bias_sums, stem_sum_count, S.dim, grad.proj_bias.data);
  }
  /// dz of the third BatchNorm, to d_.dz[0].
  void project_input(T const* dgrid, gradients const& grad) const {
    int const parts = launch_project_input<G>(
        stream_, device_.multiprocessors,
        project_input_operands<G, T>{dgrid, d_.proj, saved_.raw[2], stem_norm_of<S>(p_, saved_, 2), d_.dz[0], d_.sums},
        batch_ * G::tokens);
    finish(2, parts, grad);
  }
  /// Convolution Stage: the gradient of its weights, and dz becomes that of its output. Patches: how dz and raw lie.
  template <std::size_t Stage, bool Patches>
  void weights(T* dz, gradients const& grad) const {
    launch_train_weights(stream_, device_.multiprocessors,
                         train_weights_source<G, Patches, T>{saved_.raw[Stage - 1], saved_.raw[Stage], dz,
                                                             stem_norm_of<S>(p_, saved_, Stage - 1), gradient(Stage)},
                         tile_order::downwards, batch_, d_.parts, grad.conv[Stage - 1].data);
  }
  /// From the gradient of its output to dz of the BatchNorm before it.
  template <std::size_t Stage, bool Patches>
  void input(T const* gradient, T* before, gradients const& grad) const {
    using block = typename kernels::conv3;
    int const parts = launch_train_conv3<G, block>(
        stream_, device_.multiprocessors, "stem: gradient of a 3 x 3 convolution's input",
        copied_halo<block, Patches, T>{gradient}, d_.mirrored[Stage - 1],
        masked_sink<G, T>{saved_.raw[Stage - 1], stem_norm_of<S>(p_, saved_, Stage - 1), before, d_.sums},
        tile_order::upwards, batch_);
    finish(Stage - 1, parts, grad);
  }
  void first_weights(Reader const& picture, gradients const& grad) const {
    launch_train_conv1_weights<G>(stream_, device_.multiprocessors, picture, static_cast<T const*>(d_.dz[0]),
                                  saved_.raw[0], gradient(0), tile_order::downwards, batch_, d_.parts, grad.conv1.data);
  }

 private:
  [[nodiscard]] stem_norm_gradient gradient(std::size_t stage) const {
    return {stem_norm_of<S>(p_, saved_, stage), d_.means};
  }
  void finish(std::size_t stage, int parts, gradients const& grad) const {
    finish_norm_gradient(stream_, d_.sums, parts, S.hidden, std::ptrdiff_t{batch_} * G::plane_pixels,
                         stem_norm_of<S>(p_, saved_, stage), grad.bn_weight[stage].data, grad.bn_bias[stage].data,
                         d_.means);
  }

  cudaStream_t stream_;
  device_properties const& device_;
  parameters const& p_;
  stem_saved<S, T> const& saved_;
  stem_tensor_gradients<S, T> const& d_;
  int batch_;
};

}  // namespace dm2::cuda::detail
