/// @file
/// The stem in training on tensor cores.
///
/// Which stems, on which devices, and their scratch.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/stem/layout.cuh>
#include <dm2/cuda/stem_train/batch_norm.cuh>
#include <dm2/cuda/stem_train/conv1.cuh>
#include <dm2/cuda/stem_train/conv1_weights.cuh>
#include <dm2/cuda/stem_train/conv3.cuh>
#include <dm2/cuda/stem_train/conv3_weights.cuh>
#include <dm2/cuda/stem_train/conv3_weights_split.cuh>
#include <dm2/cuda/stem_train/general.cuh>
#include <dm2/cuda/stem_train/project.cuh>
#include <dm2/cuda/stem_train/project_hopper.cuh>
#include <dm2/cuda/stem_train/project_input_hopper.cuh>
#include <dm2/cuda/stem_train/project_weights.cuh>
#include <dm2/cuda/stem_train/project_weights_hopper.cuh>
#include <dm2/cuda/stem_train/saved.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <algorithm>
#include <array>
#include <cstddef>

namespace dm2::cuda::detail::stem_train {

/// How the products of the projection are computed: a warp at a time, or with a Hopper's warpgroups, which a thread
/// copies for, where the device has them.
enum class project_way : bool { warps, warpgroups };

/// The kernels of a stem of shape S in elements of T.
template <stem_shape S, class T>
struct tensor_kernels {
  using G = stem::geometry<S>;
  using layouts = stem::layouts<S, T>;
  using conv3 = conv3_block<G>;
  using weights3 = conv3_weights_block<G>;
  using weights1 = conv1_weights_block<G>;
  using project_input = project_input_block<G>;
  using project_weights = project_weights_block<G>;
  using input_layout = project_gradient_layout<G::side * G::side, S.hidden, S.dim>;
  static constexpr int shared_bytes = std::max({conv3::shared_bytes, weights3::shared_bytes, weights1::shared_bytes,
                                                project_input::shared_bytes, project_weights::shared_bytes});
};

/// Whether the tensor kernels take the stem's sizes: 64 channels, as Tiny's and Small's has.
template <stem_shape S, class T>
inline constexpr bool tensor_sizes = is_half<T>&& S.hidden == 64 && S.channels <= 4 && S.dim % 8 == 0 && S.dim <= 384;

/// Whether they run: their shared memory is there (compute capability 9.0), and `grid` starts at 16 bytes.
template <stem_shape S, class T>
bool tensor_fits(device_properties const& device, T const* grid) {
  if constexpr (tensor_sizes<S, T>)
    return tensor_kernels<S, T>::shared_bytes <= device.shared_per_block && packets_at<8>(grid);
  else
    return false;
}

/// Scratch of the forward.
template <stem_shape S, class T>
struct tensor_scratch {
  using kernels = tensor_kernels<S, T>;
  using layouts = typename kernels::layouts;
  using G = stem::geometry<S>;
  using number = stem_number<T>;
  std::array<number*, 3> conv;
  number* proj;
  float* sums;   ///< parts of the statistics
  float* parts;  ///< parts of the projection

  tensor_scratch(arena& a, device_properties const& device, int batch) {
    conv = {a.take<number>(layouts::conv1::size), a.take<number>(layouts::conv3::size),
            a.take<number>(layouts::conv3::size)};
    proj = a.take<number>(layouts::project::size);
    int const most =
        std::max(conv1_parts<G>(device.multiprocessors), conv3_parts<typename kernels::conv3>(device.multiprocessors));
    sums = a.take<float>(std::size_t(most) * 2 * S.hidden);
    parts = a.take<float>(stem::plan_projection<G::depth, S.dim>(device, batch * G::tokens).parts);
  }
};

/// Scratch of the backward: the gradients of two planes, 822 MB for 256 pictures of Tiny.
template <stem_shape S, class T>
struct tensor_gradients {
  using kernels = tensor_kernels<S, T>;
  using layouts = typename kernels::layouts;
  using G = stem::geometry<S>;
  std::array<T*, 2> dz;        ///< [B, H / 2, W / 2, hidden], of BatchNorm's outputs
  std::array<T*, 2> mirrored;  ///< the second and third convolution
  T* proj;
  float *sums, *means, *parts;
  double* bias_sums;

  tensor_gradients(arena& a, device_properties const& device, int batch) {
    int const sms = device.multiprocessors, rows = batch * G::tokens;
    for (T*& p : dz) p = a.take<T>(std::size_t(batch) * stem_saved<S, T>::plane);
    for (T*& p : mirrored) p = a.take<T>(layouts::conv3::size);
    proj = a.take<T>(kernels::input_layout::size);
    int const most = std::max({project_input_shares<G>(sms, rows) * kernels::project_input::column_blocks,
                               project_input_hopper_shares<G>(sms, rows) * project_input_hopper_block<G>::pixel_blocks,
                               conv3_parts<typename kernels::conv3>(sms)});
    sums = a.take<float>(std::size_t(most) * 2 * S.hidden);
    means = a.take<float>(std::size_t{2} * S.hidden);
    parts = a.take<float>(std::max({std::size_t(sms) * kernels::weights3::sums,
                                    std::size_t(2) * std::size_t(sms) * kernels::weights1::sums,
                                    std::size_t(project_weights_shares<G>(sms, rows)) * S.dim * G::depth,
                                    std::size_t(project_weights_hopper_shares<G>(sms, rows)) * S.dim * G::depth}));
    bias_sums = a.take<double>(std::size_t{2} * sum_count * S.dim);
  }
};

/// The forward of `batch` pictures; multiplies numbers of stem_number<T>.
template <stem_shape S, class T, class Reader>
class tensor_forward {
  using number = stem_number<T>;
  using kernels = tensor_kernels<S, T>;
  using layouts = typename kernels::layouts;
  using G = stem::geometry<S>;
  using parameters = stem_parameters<S, float const, space::device>;
  using statistics = stem_statistics<S, float, space::device>;

 public:
  tensor_forward(cudaStream_t stream, device_properties const& device, parameters const& p,
                 stem_saved<S, T> const& saved, tensor_scratch<S, T> const& scratch, int batch, bool fixed = false)
      : stream_{stream}, device_{device}, p_{p}, saved_{saved}, s_{scratch}, batch_{batch}, fixed_{fixed} {}

  /// All steps. Way: how the projection is computed.
  template <project_way Way = project_way::warpgroups>
  void operator()(Reader const& picture, statistics const& running, T* grid) const {
    arrange<Way>();
    first(picture, running);
    inner<false>(1, tile_order::upwards, running);
    inner<true>(2, tile_order::downwards, running);
    project<Way>(grid);
  }

  // The steps, in this order.

  template <project_way Way = project_way::warpgroups>
  void arrange() const {
    lay_out_weights<typename layouts::conv1, false, S.hidden, S.channels, 49>(stream_, p_.conv1.data, s_.conv[0]);
    for (std::size_t i = 0; i < 2; ++i)
      lay_out_weights<typename layouts::conv3, false, S.hidden, S.hidden, 9>(stream_, p_.conv[i].data, s_.conv[i + 1]);
    auto const projection = [&]<class Layout>() {
      lay_out_weights<Layout, false, S.dim, S.hidden, G::side * G::side>(stream_, p_.proj.data, s_.proj);
    };
    if (projects_in_warpgroups<Way>())
      projection.template operator()<typename project_hopper_block<G>::layout>();
    else
      projection.template operator()<typename layouts::project>();
  }
  void first(Reader const& picture, statistics const& running) const {
    int const parts =
        launch_conv1<G>(stream_, device_.multiprocessors, picture, s_.conv[0],
                        raw_sink<G, false, number>{saved_.raw[0], s_.sums}, tile_order::downwards, batch_);
    finish(0, parts, running);
  }
  template <bool Patches>
  void inner(std::size_t stage, tile_order order, statistics const& running) const {
    using block = typename kernels::conv3;
    int const parts = launch_conv3<G, block, forward_roles>(
        stream_, device_, "stem: 3 x 3 convolution with statistics",
        activated_halo<block, number>{saved_.raw[stage - 1], norm_of<S>(p_, saved_, stage - 1)}, s_.conv[stage],
        raw_sink<G, Patches, number>{saved_.raw[stage], s_.sums}, order, batch_);
    finish(stage, parts, running);
  }
  template <project_way Way = project_way::warpgroups>
  void project(T* grid) const {
    constexpr int K = G::depth, N = S.dim;
    int const rows = batch_ * G::tokens;
    sink_type const sink{p_.proj_bias.data, grid};
    if constexpr (Way == project_way::warpgroups)
      if (projects_in_warpgroups<Way>())
        return launch_project_hopper<G>(stream_, device_.multiprocessors, static_cast<number const*>(saved_.raw[2]),
                                        static_cast<number const*>(s_.proj), norm_of<S>(p_, saved_, 2), sink, rows);
    stem::project_plan const plan = stem::plan_projection<K, N>(device_, rows);
    auto const with = [&]<stem::project_form F>() {
      stem::launch_projection<K, N, F>(stream_, plan, static_cast<number const*>(saved_.raw[2]),
                                       static_cast<number const*>(s_.proj), sink, rows, s_.parts,
                                       activated_inputs{norm_of<S>(p_, saved_, 2)});
    };
    if (plan.many)
      with.template operator()<stem::project_many<N>>();
    else
      with.template operator()<stem::project_few>();
  }

 private:
  using sink_type = element_grid_sink<S.dim, T>;
  /// Where there are many patches, too: fewer are divided along the patches' length by the other way.
  template <project_way Way>
  [[nodiscard]] bool projects_in_warpgroups() const {
    if constexpr (Way == project_way::warpgroups)
      return project_hopper_fits<G, number, sink_type>(device_, batch_ * G::tokens);
    return false;
  }
  void finish(std::size_t stage, int parts, statistics const& running) const {
    finish_statistics(
        stream_, s_.sums, parts, S.hidden, std::ptrdiff_t{batch_} * G::plane_pixels,
        {saved_.mean[stage], saved_.rstd[stage], running.mean[stage].data, running.var[stage].data, fixed_});
  }

  cudaStream_t stream_;
  device_properties const& device_;
  parameters const& p_;
  stem_saved<S, T> const& saved_;
  tensor_scratch<S, T> const& s_;
  int batch_;
  bool fixed_;
};

// The backward of the stem on tensor cores.
//
// What goes down is dz, the gradient of BatchNorm's output where ReLU let it through. The kernel that computes it sums
// what BatchNorm's own backward needs; the next one, of the convolution's weights, forms the gradient of the
// convolution's output from dz and the raw output in shared memory, and leaves it in dz's place for the gradient of the
// input. Planes read and written, of 1.6 MB a picture at Tiny's size: 2 and 1 by the projection, 5 and 2 by each 3 x 3
// convolution, 2 by the first one.

/// The backward of `batch` pictures, but for the gradient of the pictures.
template <stem_shape S, class T, class Reader>
class tensor_backward {
  using kernels = tensor_kernels<S, T>;
  using layouts = typename kernels::layouts;
  using G = stem::geometry<S>;
  using parameters = stem_parameters<S, float const, space::device>;
  using gradients = stem_parameters<S, float, space::device>;

 public:
  tensor_backward(cudaStream_t stream, device_properties const& device, parameters const& p,
                  stem_saved<S, T> const& saved, tensor_gradients<S, T> const& gradients, int batch)
      : stream_{stream}, device_{device}, p_{p}, saved_{saved}, d_{gradients}, batch_{batch} {}

  /// All steps. Way: how the gradients of the projection are computed.
  template <project_way Way = project_way::warpgroups>
  void operator()(Reader const& picture, T const* dgrid, gradients const& grad) const {
    arrange<Way>();
    project_weights<Way>(dgrid, grad);
    project_input<Way>(dgrid, grad);
    weights<2, true>(d_.dz[0], grad);
    input<2, true>(d_.dz[0], d_.dz[1], grad);
    weights<1, false>(d_.dz[1], grad);
    input<1, false>(d_.dz[1], d_.dz[0], grad);
    first_weights(picture, grad);
  }

  // The steps, in this order.

  template <project_way Way = project_way::warpgroups>
  void arrange() const {
    for (std::size_t i = 0; i < 2; ++i)
      lay_out_weights<typename layouts::conv3, true, S.hidden, S.hidden, 9>(stream_, p_.conv[i].data, d_.mirrored[i]);
    auto const projection = [&]<class Layout>() {
      lay_out_weights<Layout, false, S.dim, S.hidden, G::side * G::side>(stream_, p_.proj.data, d_.proj);
    };
    if (projects_in_warpgroups<Way>())
      projection.template operator()<typename project_input_hopper_block<G>::layout>();
    else
      projection.template operator()<typename kernels::input_layout>();
  }
  /// The projection's weights and bias.
  template <project_way Way = project_way::warpgroups>
  void project_weights(T const* dgrid, gradients const& grad) const {
    int const rows = batch_ * G::tokens;
    batch_norm const norm = norm_of<S>(p_, saved_, 2);
    bool done = false;
    if constexpr (Way == project_way::warpgroups)
      done = launch_project_weights_hopper<G>(stream_, device_, dgrid, saved_.raw[2], norm, rows, d_.parts,
                                              grad.proj.data);
    if (!done)
      launch_project_weights<G>(stream_, device_.multiprocessors, dgrid, saved_.raw[2], norm, rows, d_.parts,
                                grad.proj.data);
    sum_terms(stream_, moments<T>{dgrid}, rows, S.dim, d_.bias_sums);
    add_sums(stream_, d_.bias_sums, sum_count, S.dim, grad.proj_bias.data);
  }
  /// dz of the third BatchNorm, to d_.dz[0].
  template <project_way Way = project_way::warpgroups>
  void project_input(T const* dgrid, gradients const& grad) const {
    project_input_operands<G, T> const operands{.dgrid = dgrid,
                                                .weights = d_.proj,
                                                .raw = saved_.raw[2],
                                                .norm = norm_of<S>(p_, saved_, 2),
                                                .dz = d_.dz[0],
                                                .parts = d_.sums};
    int const sms = device_.multiprocessors, rows = batch_ * G::tokens;
    if constexpr (Way == project_way::warpgroups)
      if (projects_in_warpgroups<Way>())
        return finish(2, launch_project_input_hopper(stream_, sms, operands, rows), grad);
    int const parts = launch_project_input(stream_, sms, operands, rows);
    finish(2, parts, grad);
  }
  /// Convolution Stage: the gradient of its weights, and dz becomes that of its output. Patches: how dz and raw lie.
  template <std::size_t Stage, bool Patches>
  void weights(T* dz, gradients const& grad) const {
    conv3_weights_source<G, Patches, T> const source{.before = saved_.raw[Stage - 1],
                                                     .raw = saved_.raw[Stage],
                                                     .dz = dz,
                                                     .norm = norm_of<S>(p_, saved_, Stage - 1),
                                                     .gradient = gradient(Stage)};
    launch_conv3_weights_on(stream_, device_, source, tile_order::downwards, batch_, d_.parts,
                            grad.conv[Stage - 1].data);
  }
  /// From the gradient of its output to dz of the BatchNorm before it.
  template <std::size_t Stage, bool Patches>
  void input(T const* gradient, T* before, gradients const& grad) const {
    using block = typename kernels::conv3;
    int const parts = launch_conv3<G, block, backward_roles>(
        stream_, device_, "stem: gradient of a 3 x 3 convolution's input", copied_halo<block, Patches, T>{gradient},
        d_.mirrored[Stage - 1],
        masked_sink<G, T>{saved_.raw[Stage - 1], norm_of<S>(p_, saved_, Stage - 1), before, d_.sums},
        tile_order::upwards, batch_);
    finish(Stage - 1, parts, grad);
  }
  void first_weights(Reader const& picture, gradients const& grad) const {
    conv1_weights_source<Reader, T> const source{
        .picture = picture, .dz = d_.dz[0], .raw = saved_.raw[0], .gradient = gradient(0)};
    launch_conv1_weights<G>(stream_, device_.multiprocessors, source, tile_order::downwards, batch_, d_.parts,
                            grad.conv1.data);
  }

 private:
  template <project_way Way>
  [[nodiscard]] bool projects_in_warpgroups() const {
    if constexpr (Way == project_way::warpgroups) return project_input_hopper_runs<G, T>(device_);
    return false;
  }
  [[nodiscard]] norm_gradient gradient(std::size_t stage) const { return {norm_of<S>(p_, saved_, stage), d_.means}; }
  void finish(std::size_t stage, int parts, gradients const& grad) const {
    finish_norm_gradient(stream_, d_.sums, parts, S.hidden, std::ptrdiff_t{batch_} * G::plane_pixels,
                         norm_of<S>(p_, saved_, stage), grad.bn_weight[stage].data, grad.bn_bias[stage].data, d_.means);
  }

  cudaStream_t stream_;
  device_properties const& device_;
  parameters const& p_;
  stem_saved<S, T> const& saved_;
  tensor_gradients<S, T> const& d_;
  int batch_;
};

}  // namespace dm2::cuda::detail::stem_train
