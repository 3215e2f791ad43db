/// @file
/// A network with its parameters and memory: `dm2::model<dm2::tiny> net;`
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cpu/operations.hpp>
#include <dm2/model/config.hpp>
#include <dm2/model/find_tensor.hpp>
#include <dm2/model/network.hpp>
#include <dm2/model/parameter_table.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace dm2 {

namespace detail {
/// Pictures in `floats` numbers; throws shape_error unless it is a whole number of them, at least one.
template <config C>
int picture_count(char const* tensor, std::size_t floats) {
  constexpr std::size_t one = std::size_t(sizes<C>::pixels);
  if (floats == 0 || floats % one != 0)
    throw shape_error{std::string{tensor} + ": got " + std::to_string(floats) + " numbers, expected a multiple of " +
                      std::to_string(C.channels) + " x " + std::to_string(C.image.height) + " x " +
                      std::to_string(C.image.width)};
  if (floats / one > std::size_t(std::numeric_limits<int>::max()))
    throw shape_error{std::string{tensor} + ": got " + std::to_string(floats / one) +
                      " pictures, expected at most 2^31 - 1"};
  return int(floats / one);
}
}  // namespace detail

/// A network of configuration C: its parameters, in the published state dict's names and order, and the memory of an
/// evaluation.
///
/// After construction for a batch, an evaluation of at most that many pictures allocates nothing; a larger one grows
/// the memory once. A model moves but does not copy, and must not be used by two threads at a time. One that was moved
/// from throws std::logic_error wherever its state is used, until another is moved into it.
template <config C, class Context = cpu::context<float>>
  requires compiles<C>
class model {
 public:
  /// The type of every parameter and activation.
  using scalar = typename Context::scalar;
  /// The backend's context.
  using context = Context;
  /// The context of operations on state().
  using state_context = Context;
  /// C
  static constexpr config configuration = C;
  /// Height and width of a picture.
  static constexpr image_extent image = C.image;
  /// Numbers of one picture, channels * height * width.
  static constexpr std::size_t pixels = std::size_t(sizes<C>::pixels);
  /// Logits of one picture.
  static constexpr std::size_t classes = std::size_t(C.classes);

  /// All parameters zero: load a checkpoint, or fill state(). Throws as reserve does.
  explicit model(int batch = 1, Context ctx = Context{})
      : context_{std::move(ctx)}, state_{state_extent<C> * sizeof(scalar)} {
    reserve(batch);
  }

  /// Name, shape and place of every entry of the state.
  static constexpr std::span<parameter_entry const> table() { return parameter_table<C>; }

  /// Every floating entry, at its table offset; the numbers between entries are zero and stay so.
  [[nodiscard]] std::span<scalar> state() {
    detail::require_memory(state_.data() != nullptr, "dm2::model");
    return {reinterpret_cast<scalar*>(state_.data()), state_extent<C>};
  }
  /// @copydoc state()
  [[nodiscard]] std::span<scalar const> state() const {
    detail::require_memory(state_.data() != nullptr, "dm2::model");
    return {reinterpret_cast<scalar const*>(state_.data()), state_extent<C>};
  }
  /// The tensor of that name, in state(): `net.find("head.weight").values`. Throws std::out_of_range, with the nearest
  /// names, where there is none.
  [[nodiscard]] named_tensor<scalar> find(std::string_view name) { return find_tensor(table(), state(), name); }
  /// @copydoc find(std::string_view)
  [[nodiscard]] named_tensor<scalar const> find(std::string_view name) const {
    return find_tensor(table(), state(), name);
  }
  /// BatchNorm's step counts, at their table offset.
  [[nodiscard]] std::span<std::int64_t> counters() { return counters_; }
  /// @copydoc counters()
  [[nodiscard]] std::span<std::int64_t const> counters() const { return counters_; }

  /// The state as the layers see it.
  [[nodiscard]] network_view<C, scalar, Context::memory> view() {
    return network_view<C, scalar, Context::memory>{state().data()};
  }
  /// @copydoc view()
  [[nodiscard]] network_view<C, scalar const, Context::memory> view() const {
    return network_view<C, scalar const, Context::memory>{state().data()};
  }

  /// The context that every operation of this model runs with; set_threads() is the one thing to change.
  [[nodiscard]] Context& ctx() { return context_; }

  /// The context of operations on state(): ctx().
  [[nodiscard]] state_context& state_ctx() { return context_; }

  /// Plans memory for evaluations of up to `batch` pictures. Throws shape_error for less than one, std::bad_alloc or
  /// std::length_error where there is not so much memory; the model plans for none then, and may be asked again.
  void reserve(int batch) {
    if (batch < 1) throw shape_error{"model.batch: got " + std::to_string(batch) + ", expected at least 1"};
    detail::require_memory(state_.data() != nullptr, "dm2::model");
    if (batch <= batch_) return;
    std::size_t const bytes = planned_bytes<detail::evaluation_plan<C, scalar>>(batch);
    batch_ = 0;  // until there is memory again
    memory_ = {};
    memory_ = buffer{bytes};
    batch_ = batch;
    context_.plan([&] {
      auto const plan = run_trunk(nullptr, batch);
      detail::forward_heads(context_, std::as_const(*this).view(), plan, logits_view(nullptr, batch));
      patch_logits(plan, nullptr, nullptr, batch);
    });
  }
  /// Pictures that are planned for.
  [[nodiscard]] int batch() const { return batch_; }
  /// Bytes of parameters, activations and scratch.
  [[nodiscard]] std::size_t bytes() const { return state_.size() + memory_.size() + context_.scratch_bytes(); }

  /// Logits of normalised pictures: head(class token) + max over patches of aux_head(patch) / 2.
  ///
  /// Shapes   pictures [B, channels, height, width]; logits [B, classes].
  /// Writes   logits (=).
  /// Throws   shape_error if the sizes disagree; nothing is written then.
  void forward(std::span<scalar const> pictures, std::span<scalar> logits) {
    int const batch = detail::picture_count<C>("model.forward.pictures", pictures.size());
    require_extent("model.forward.logits", logits.size(), std::size_t(batch) * classes);
    reserve(batch);
    auto const plan = run_trunk(pictures.data(), batch);
    detail::forward_heads(context_, std::as_const(*this).view(), plan, logits_view(logits.data(), batch));
  }

  /// Features, which the heads read: every token after the last norm, the class token at sizes<C>::class_token.
  ///
  /// Shapes   pictures [B, channels, height, width]; features [B, length, dim].
  /// Writes   features (=).
  /// Throws   shape_error if the sizes disagree; nothing is written then.
  void forward_features(std::span<scalar const> pictures, std::span<scalar> features) {
    int const batch = detail::picture_count<C>("model.forward_features.pictures", pictures.size());
    require_extent("model.forward_features.features", features.size(), std::size_t(batch) * sizes<C>::length * C.dim);
    reserve(batch);
    auto const plan = run_trunk(pictures.data(), batch);
    std::copy_n(plan.trunk.features, features.size(), features.data());
  }

  /// Both heads' logits, the patches' one by one.
  ///
  /// Shapes   pictures [B, channels, height, width]; cls [B, classes]; patches [B, grid height, grid width, classes].
  /// Writes   cls, patches (=).
  /// Throws   shape_error if the sizes disagree; nothing is written then.
  void forward_patches(std::span<scalar const> pictures, std::span<scalar> cls, std::span<scalar> patches) {
    int const batch = detail::picture_count<C>("model.forward_patches.pictures", pictures.size());
    std::size_t const n = std::size_t(batch);
    require_extent("model.forward_patches.cls", cls.size(), n * classes);
    require_extent("model.forward_patches.patches", patches.size(), n * sizes<C>::tokens * classes);
    reserve(batch);
    patch_logits(run_trunk(pictures.data(), batch), cls.data(), patches.data(), batch);
  }

 private:
  using buffer = typename Context::buffer;
  using logits_rows = rows<scalar, C.classes, Context::memory>;

  static logits_rows logits_view(scalar* first, int count) { return {first, std::size_t(count)}; }

  detail::evaluation_plan<C, scalar> run_trunk(scalar const* pictures, int batch) {
    arena a{memory_.data(), memory_.size()};
    detail::evaluation_plan<C, scalar> const plan{a, batch};
    detail::forward_features(context_, std::as_const(*this).view(), pictures, plan);
    return plan;
  }

  void patch_logits(detail::evaluation_plan<C, scalar> const& plan, scalar* cls, scalar* patches, int batch) {
    training_heads(context_, rows<scalar, C.dim, Context::memory>{plan.trunk.features, plan.trunk.count},
                   detail::head_operands(std::as_const(*this).view()), logits_view(cls, batch),
                   logits_view(patches, batch * sizes<C>::tokens), sizes<C>::length);
  }

  Context context_;
  buffer state_, memory_;
  std::array<std::int64_t, counter_count<C>> counters_{};
  int batch_ = 0;
};

}  // namespace dm2
