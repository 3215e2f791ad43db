/// @file
/// The network in training on the GPU.
///
/// Parameters, gradients and activations in device memory, one pass at a time.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/attention_core.cuh>
#include <dm2/cuda/attention_core_backward.cuh>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/memory.cuh>
#include <dm2/cuda/device/stream.cuh>
#include <dm2/cuda/fold_output_projection.cuh>
#include <dm2/cuda/gated_activation.cuh>
#include <dm2/cuda/heads.cuh>
#include <dm2/cuda/memory.cuh>
#include <dm2/cuda/mixer_core.cuh>
#include <dm2/cuda/mixer_core_backward.cuh>
#include <dm2/cuda/project_add_norm.cuh>
#include <dm2/cuda/project_add_norm_backward.cuh>
#include <dm2/cuda/stem_train.cuh>
#include <dm2/cuda/token_label_loss.cuh>
#include <dm2/cuda/tokens.cuh>
#include <dm2/model/config.hpp>
#include <dm2/model/network.hpp>
#include <dm2/model/parameter_table.hpp>

#include <cstddef>

namespace dm2::cuda {

/// Parameters and statistics, their gradients, the copies that products read, and the activations of a pass of exactly
/// `batch` pictures. Every call is asynchronous on stream() and allocates nothing.
///
/// In 16 bits there are float master parameters, a float residual stream with its gradient, and float parameter
/// gradients; the other activations and their gradients are elements, but for the stem's activations (stem_number).
/// Half precision needs a loss scale of some 10^4 (token_loss_options).
template <config C, precision P>
class training_network {
 public:
  /// What activations are stored as.
  using element = cuda::element<P>;

  /// Takes all memory on the current device; zeros. `batch` is at least 1; so many layers from the stem on are `frozen`
  /// (tuning_options). Throws cuda::error where memory runs out, std::invalid_argument where frozen is out of range.
  explicit training_network(int batch, int frozen = 0)
      : ctx_{stream_.get()},
        batch_{std::size_t(batch)},
        frozen_{dm2::detail::checked_frozen<C>(frozen)},
        state_{extent * sizeof(float)},
        gradients_{extent * sizeof(float)},
        copies_{separate ? extent * sizeof(element) : 0},
        memory_{planned_bytes<plan_type>(batch)},
        arena_{memory_.data(), memory_.size()},
        plan_{arena_, batch} {
    ctx_.set_copies(state(), copies());
    ctx_.plan([&] {
      forward(static_cast<float const*>(nullptr), nullptr);
      loss(sparse_rows<float>{nullptr, nullptr, nullptr, nullptr, batch_ * (1 + tokens)}, nullptr, nullptr, {});
      backward(static_cast<float const*>(nullptr), nullptr, nullptr);
    });
  }
  training_network(training_network const&) = delete;
  training_network& operator=(training_network const&) = delete;

  /// The stream of all its work.
  [[nodiscard]] cuda::stream const& stream() const { return stream_; }
  /// The context of all its work.
  [[nodiscard]] context<P>& ctx() { return ctx_; }
  /// The model's state on the device, at the table's offsets.
  [[nodiscard]] float* state() const { return reinterpret_cast<float*>(state_.data()); }
  /// Gradients at the same offsets.
  [[nodiscard]] float* gradients() const { return reinterpret_cast<float*>(gradients_.data()); }
  /// The state rounded to elements, at the same offsets; null in float.
  [[nodiscard]] element* copies() const { return reinterpret_cast<element*>(copies_.data()); }
  /// Brings the copies up to date with the state.
  void round_copies() {
    if constexpr (separate) round(ctx_, state(), extent, copies());
  }

  /// Training forward: the logits are left in class_logits() and patch_logits(), where MixToken has put them.
  /// BatchNorm's running statistics in state() move, unless the stem is frozen.
  ///
  /// Shapes   pictures: normalised floats [batch, channels, height, width], or byte_pictures [batch, height, width,
  ///          channels], on the device, as they are until backward is done; box on the device, inside the patch grid,
  ///          which is not checked; `mix_box{}` for none, never null.
  template <class Pictures>
  void forward(Pictures const& pictures, mix_box const* box) {
    dm2::detail::forward_train(ctx_, view(), pictures, box, plan_, frozen_);
  }
  /// token_label_loss of those logits, with its targets and forward's box; puts the gradients where the logits were.
  template <class Target>
  void loss(Target const& target, mix_box const* box, token_label_sums* sums, token_loss_options options) {
    options.mixed = true;
    options.cols = sizes<C>::stem.grid_width();
    token_label_loss(ctx_, rows<float const, C.classes, space::device>{plan_.cls, batch_},
                     rows<element const, C.classes, space::device>{plan_.aux, batch_ * tokens}, target, box,
                     class_logits(), patch_logits(), sums, options);
  }
  /// Adds every parameter's gradient to gradients(), but for the frozen layers', from what forward and loss left.
  /// `pictures` and `box` are forward's; dpictures (=), floats [batch, channels, height, width], may be null, and is
  /// not written where a layer is frozen.
  template <class Pictures>
  void backward(Pictures const& pictures, mix_box const* box, float* dpictures) {
    network_view<C, float const, space::device> const net{state()};
    dm2::detail::backward(ctx_, net, pictures, box, plan_, network_view<C, float, space::device>{gradients()},
                          dpictures, frozen_);
  }

  /// Logits of the class tokens, or after loss() their gradients.
  [[nodiscard]] rows<float, C.classes, space::device> class_logits() const { return {plan_.cls, batch_}; }
  /// Logits of the patches, or after loss() their gradients.
  [[nodiscard]] rows<element, C.classes, space::device> patch_logits() const { return {plan_.aux, batch_ * tokens}; }

  /// Pictures of a pass.
  [[nodiscard]] int batch() const { return int(batch_); }
  /// Layers that are frozen, from the stem on.
  [[nodiscard]] int frozen() const { return frozen_; }
  /// Bytes of activations and their gradients.
  [[nodiscard]] std::size_t activation_bytes() const { return memory_.size(); }
  /// Bytes in all, scratch included.
  [[nodiscard]] std::size_t bytes() const {
    return state_.size() + gradients_.size() + copies_.size() + memory_.size() + ctx_.scratch_bytes();
  }

 private:
  using plan_type = dm2::detail::training_plan<C, context<P>>;
  static constexpr std::size_t extent = state_extent<C>, tokens = std::size_t(sizes<C>::tokens);
  static constexpr bool separate = is_half<element>;

  [[nodiscard]] network_view<C, float, space::device> view() const {
    return network_view<C, float, space::device>{state()};
  }

  cuda::stream stream_;
  context<P> ctx_;
  std::size_t batch_;
  int frozen_;
  device_memory state_, gradients_, copies_, memory_;
  arena arena_;
  plan_type plan_;
};

}  // namespace dm2::cuda
