/// @file
/// One training step's forward and backward: `dm2::training_pass pass{net, batch};`
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/view.hpp>
#include <dm2/model/model.hpp>
#include <dm2/model/network.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace dm2 {

namespace detail {

/// Throws shape_error if MixToken's box leaves the patch grid.
template <config C>
void require_in_grid(mix_box box) {
  constexpr int height = sizes<C>::stem.grid_height(), width = sizes<C>::stem.grid_width();
  if (box.row0 >= 0 && box.col0 >= 0 && box.row1 <= height && box.col1 <= width) return;
  auto const range = [](int first, int end) { return std::to_string(first) + " to " + std::to_string(end); };
  throw shape_error{"training_pass.forward.box: rows " + range(box.row0, box.row1) + ", columns " +
                    range(box.col0, box.col1) + ", expected inside the patch grid of " + std::to_string(height) +
                    " x " + std::to_string(width)};
}

}  // namespace detail

/// The activations of a training forward over a fixed number of pictures, and the gradients of every parameter.
///
/// The order of calls is forward, then loss, then backward, each once; another forward begins anew. Instead of calling
/// loss, gradients of your own may be put into class_logits() and patch_logits(), both of which are asked for after the
/// forward. Calls in another order throw std::logic_error and change nothing. Gradients add up over passes until
/// clear_gradients(). Layers that are frozen (tuning_options::frozen) get none: backward ends above them. With the stem
/// among them, BatchNorm normalises as in evaluation, and neither its statistics nor its counts move. After
/// construction nothing is allocated. Refers to the model, which must stay where it is.
template <config C, class Context>
class training_pass {
 public:
  /// The type of every activation and gradient.
  using scalar = typename Context::scalar;

  /// Takes all memory for passes of exactly `batch` pictures. So many layers from the stem on are `frozen`. Throws
  /// shape_error if batch is below 1, std::invalid_argument unless frozen is 0 to depth + 1.
  training_pass(model<C, Context>& net, int batch, int frozen = 0)
      : net_{net},
        batch_{checked(batch)},
        frozen_{detail::checked_frozen<C>(frozen)},
        gradients_{state_extent<C> * sizeof(scalar)},
        memory_{planned_bytes<detail::training_plan<C, Context>>(batch)},
        arena_{memory_.data(), memory_.size()},
        plan_{arena_, batch} {
    net_.ctx().plan([&] {
      forward_all(nullptr, {});
      token_loss(nullptr, 1);
      backward_all(nullptr);
    });
  }
  training_pass(training_pass const&) = delete;
  training_pass& operator=(training_pass const&) = delete;

  /// Training forward: class_logits() and patch_logits() hold the result. BatchNorm normalises with the batch's
  /// statistics and moves the model's running ones; its step counts go up by one. Inside the box, each sample takes the
  /// patches of its partner, the batch reversed (MixToken); the patches' logits are mixed back.
  ///
  /// Shapes   pictures [batch, channels, height, width], normalised; kept by the caller until backward.
  /// Throws   shape_error if the size is another, or the box leaves the patch grid.
  void forward(std::span<scalar const> pictures, mix_box box = {}) {
    require_extent("training_pass.forward.pictures", pictures.size(), std::size_t(batch_) * net_.pixels);
    detail::require_in_grid<C>(box);
    done_ = stage::begun;
    pictures_ = pictures.data();
    forward_all(pictures.data(), box);
    if (frozen_ == 0)
      for (std::int64_t& n : net_.counters()) ++n;
    done_ = stage::forward;
    class_taken_ = patches_taken_ = false;
  }

  /// The token-labeling loss of forward's logits; puts its gradients in their place.
  ///
  /// Shapes   target [batch, 2 + tokens, classes]: a sample's ground truth (not used), class target, patch targets.
  /// Writes   the logits, with the gradients of `scale` times the loss.
  /// Returns  the loss, without the scale.
  /// Throws   shape_error if the size is another; std::logic_error unless a forward came before, without a loss since.
  double loss(std::span<scalar const> target, double scale = 1) {
    require_extent("training_pass.loss.target", target.size(),
                   std::size_t(batch_) * (2 + sizes<C>::tokens) * net_.classes);
    require_forward();
    double const value = token_loss(target.data(), scale);
    done_ = stage::loss;
    return value;
  }
  /// The same from sparse targets: batch * (1 + tokens) rows. Throws shape_error as token_label_loss does, too.
  double loss(sparse_rows<scalar> target, double scale = 1) {
    require_forward();
    std::size_t const n = std::size_t(batch_), patches = n * sizes<C>::tokens;
    double const value = token_label_loss(net_.ctx(), const_logits{plan_.cls, n}, const_logits{plan_.aux, patches},
                                          target, box_, logits{plan_.dcls, n}, logits{plan_.daux, patches}, scale);
    done_ = stage::loss;
    return value;
  }

  /// Adds the gradient of every parameter to gradients(). class_logits() and patch_logits() hold the logits' gradients.
  ///
  /// Shapes   dpictures [batch, channels, height, width], or empty where it is not wanted. Writes dpictures (=).
  /// Throws   shape_error if the size is another; std::logic_error unless a forward, and then a loss or gradients of
  ///          your own, came before, without a backward since, or if dpictures is asked for past a frozen stem.
  void backward(std::span<scalar> dpictures = {}) {
    if (!dpictures.empty() && frozen_ > 0)
      throw std::logic_error{"dm2::training_pass: the gradient of the pictures is past the frozen layers"};
    if (!dpictures.empty())
      require_extent("training_pass.backward.dpictures", dpictures.size(), std::size_t(batch_) * net_.pixels);
    require_gradients();
    backward_all(dpictures.empty() ? nullptr : dpictures.data());
    done_ = stage::begun;
  }

  /// After forward the logits, after loss their gradients: [batch, classes].
  [[nodiscard]] std::span<scalar> class_logits() {
    class_taken_ = true;
    return {plan_.cls, std::size_t(batch_) * net_.classes};
  }
  /// The patches', the same way: [batch, grid height, grid width, classes].
  [[nodiscard]] std::span<scalar> patch_logits() {
    patches_taken_ = true;
    return {plan_.aux, std::size_t(batch_) * sizes<C>::tokens * net_.classes};
  }
  /// As the model's state(): each parameter's gradient at its table offset; zero for statistics.
  [[nodiscard]] std::span<scalar> gradients() {
    return {reinterpret_cast<scalar*>(gradients_.data()), state_extent<C>};
  }
  /// The gradient of the parameter of that name, in gradients(). Throws std::out_of_range where there is none, with the
  /// nearest names, and for what is not trained.
  [[nodiscard]] named_tensor<scalar> find_gradient(std::string_view name) {
    return detail::find_gradient(net_.table(), gradients(), name);
  }
  /// gradients() = 0.
  void clear_gradients() { clear(net_.ctx(), gradients().data(), gradients().size()); }

  /// Pictures a pass.
  [[nodiscard]] int batch() const { return batch_; }
  /// Bytes of gradients and activations, beside the model's own.
  [[nodiscard]] std::size_t bytes() const { return gradients_.size() + memory_.size(); }

 private:
  static constexpr space memory_space = Context::memory;
  using buffer = typename Context::buffer;
  using logits = rows<scalar, C.classes, memory_space>;
  using const_logits = rows<scalar const, C.classes, memory_space>;
  /// The last call.
  enum class stage : unsigned char { begun, forward, loss };

  static int checked(int batch) {
    if (batch < 1) throw shape_error{"training_pass.batch: got " + std::to_string(batch) + ", expected at least 1"};
    return batch;
  }
  void require_forward() const {
    if (done_ == stage::loss) throw std::logic_error{"dm2::training_pass: a second loss after one forward"};
    if (done_ != stage::forward) throw std::logic_error{"dm2::training_pass: loss without a forward before it"};
  }
  void require_gradients() const {
    if (done_ == stage::begun) throw std::logic_error{"dm2::training_pass: backward without a forward before it"};
    if (done_ == stage::forward && !(class_taken_ && patches_taken_))
      throw std::logic_error{
          "dm2::training_pass: backward without a loss, or gradients in class_logits() and patch_logits(), before it"};
  }
  void forward_all(scalar const* pictures, mix_box box) {
    box_ = box;
    detail::forward_train(net_.ctx(), net_.view(), pictures, box, plan_, frozen_);
  }
  double token_loss(scalar const* target, double scale) {
    std::size_t const n = std::size_t(batch_), patches = n * sizes<C>::tokens;
    return token_label_loss(net_.ctx(), const_logits{plan_.cls, n}, const_logits{plan_.aux, patches},
                            const_logits{target, n + n + patches}, box_, logits{plan_.dcls, n},
                            logits{plan_.daux, patches}, scale);
  }
  void backward_all(scalar* dpictures) {
    detail::backward(net_.ctx(), std::as_const(net_).view(), pictures_, box_, plan_,
                     network_view<C, scalar, memory_space>{gradients().data()}, dpictures, frozen_);
  }

  model<C, Context>& net_;
  int batch_, frozen_;
  buffer gradients_, memory_;
  arena arena_;
  detail::training_plan<C, Context> plan_;
  scalar const* pictures_ = nullptr;
  mix_box box_{};
  stage done_ = stage::begun;
  bool class_taken_ = false, patches_taken_ = false;  ///< asked for since the last forward
};

}  // namespace dm2
