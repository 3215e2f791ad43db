/// @file
/// A training pass on the GPU from and to the host.
///
/// For tests, small runs, and gradients that are used elsewhere. The training loop's steps are step_engine's.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/cuda/check.cuh>
#include <dm2/cuda/device/memory.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/model.cuh>
#include <dm2/cuda/token_label_loss.cuh>
#include <dm2/cuda/training/network.cuh>
#include <dm2/model/training_pass.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

namespace dm2 {

/// Forward, loss, backward, in this order, as the CPU's; targets are dense, and there are neither the patches' logits
/// nor the pictures' gradient. Everything is on the host and there when a call returns. Each forward takes the model's
/// state to the device, and brings the running statistics back.
template <config C, cuda::precision P>
class training_pass<C, cuda::context<P>> {
 public:
  /// The type of pictures, targets, gradients and logits.
  using scalar = float;

  /// Takes all memory for passes of exactly `batch` pictures, with so many layers from the stem on `frozen`. Throws
  /// shape_error if batch is below 1, std::invalid_argument unless frozen is 0 to depth + 1.
  training_pass(model<C, cuda::context<P>>& net, int batch, int frozen = 0)
      : net_{net},
        network_{checked(batch), frozen},
        pictures_{std::size_t(batch) * net.pixels * sizeof(float)},
        box_{sizeof(mix_box)},
        sums_{sizeof(cuda::token_label_sums)},
        gradients_(state_extent<C>) {}

  /// Training forward: class_logits() holds the class tokens' logits.
  ///
  /// Shapes   pictures [batch, channels, height, width], normalised.
  /// Throws   shape_error if the size is another, or the box leaves the patch grid.
  void forward(std::span<float const> pictures, mix_box box = {}) {
    require_extent("training_pass.forward.pictures", pictures.size(), std::size_t(batch()) * net_.pixels);
    detail::require_in_grid<C>(box);
    forward_done_ = loss_done_ = false;
    upload(std::as_const(net_).state(), network_.state());
    network_.round_copies();
    upload(pictures, device_pictures());
    upload(std::span<mix_box const>{&box, 1}, device_box());
    network_.forward(device_pictures(), device_box());
    download(network_.state(), net_.state());
    if (network_.frozen() == 0)
      for (std::int64_t& n : net_.counters()) ++n;
    forward_done_ = true;
  }

  /// The token-labeling loss of what forward left. Gradients are those of `scale` times it.
  ///
  /// Shapes   target [batch, 2 + tokens, classes]: a sample's ground truth (not used), class target, patch targets.
  /// Returns  the loss, without the scale.
  /// Throws   shape_error if the size is another; std::logic_error without a forward before.
  double loss(std::span<float const> target, double scale = 1) {
    std::size_t const rows_wanted = std::size_t(batch()) * (2 + sizes<C>::tokens);
    require_extent("training_pass.loss.target", target.size(), rows_wanted * net_.classes);
    if (!std::exchange(forward_done_, false)) throw std::logic_error{"dm2::training_pass: loss without a forward"};
    cuda::device_memory const memory{target.size_bytes()};
    float* const on_device = reinterpret_cast<float*>(memory.data());
    upload(target, on_device);
    network_.loss(rows<float const, C.classes, space::device>{on_device, rows_wanted}, device_box(), device_sums(),
                  {scale});
    cuda::token_label_sums sums{};
    download(device_sums(), std::span{&sums, 1});
    loss_done_ = true;
    return sums.loss;
  }

  /// Adds the gradient of every parameter to gradients(). Throws std::logic_error without a loss before.
  void backward() {
    if (!std::exchange(loss_done_, false)) throw std::logic_error{"dm2::training_pass: backward without a loss"};
    upload(std::span<float const>{gradients_}, network_.gradients());
    network_.backward(device_pictures(), device_box(), nullptr);
    download(network_.gradients(), std::span{gradients_});
  }

  /// Logits of the class tokens, or after loss() their gradients: [batch, classes].
  [[nodiscard]] std::vector<float> class_logits() {
    std::vector<float> values(std::size_t(batch()) * net_.classes);
    download(network_.class_logits().data, std::span{values});
    return values;
  }
  /// As the model's state(): each parameter's gradient at its table offset; zero for statistics.
  [[nodiscard]] std::span<float> gradients() { return gradients_; }
  /// The gradient of the parameter of that name, in gradients(). Throws std::out_of_range where there is none, with the
  /// nearest names, and for what is not trained.
  [[nodiscard]] named_tensor<float> find_gradient(std::string_view name) {
    return detail::find_gradient(net_.table(), gradients(), name);
  }
  /// gradients() = 0.
  void clear_gradients() { gradients_.assign(gradients_.size(), 0.f); }
  /// Pictures a pass.
  [[nodiscard]] int batch() const { return network_.batch(); }
  /// Bytes on the device.
  [[nodiscard]] std::size_t bytes() const { return network_.bytes() + pictures_.size(); }

 private:
  static int checked(int batch) {
    if (batch < 1) throw shape_error{"training_pass.batch: got " + std::to_string(batch) + ", expected at least 1"};
    return batch;
  }
  [[nodiscard]] float* device_pictures() const { return reinterpret_cast<float*>(pictures_.data()); }
  [[nodiscard]] mix_box* device_box() const { return reinterpret_cast<mix_box*>(box_.data()); }
  [[nodiscard]] cuda::token_label_sums* device_sums() const {
    return reinterpret_cast<cuda::token_label_sums*>(sums_.data());
  }
  template <class T>
  void upload(std::span<T const> from, T* to) {
    copy(network_.ctx(), from.data(), from.size(), to);
  }
  template <class T>
  void download(T const* from, std::span<T> to) {
    copy(network_.ctx(), from, to.size(), to.data());
    network_.stream().synchronize();
  }

  model<C, cuda::context<P>>& net_;
  cuda::training_network<C, P> network_;
  cuda::device_memory pictures_, box_, sums_;
  std::vector<float> gradients_;
  bool forward_done_ = false, loss_done_ = false;
};

}  // namespace dm2
