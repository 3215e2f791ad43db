/// @file
/// The exponential moving average of a model's state.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/model/model.hpp>
#include <dm2/model/parameter_table.hpp>
#include <dm2/train/state_slices.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace dm2 {

/// Averages every floating-point entry of the state, BatchNorm's running statistics too. Validation and the best
/// checkpoint use the averages.
template <config C, class Context>
class ema {
 public:
  /// The type of the state and of the averages.
  using scalar = typename Context::scalar;

  /// Starts at the model's present state. With `warm_up`, step t uses min(decay, (1 + t) / (10 + t)), so that a short
  /// run does not average its beginning. Throws std::invalid_argument unless the decay is at least 0 and below 1.
  explicit ema(model<C, Context>& net, double decay = 0.9999, bool warm_up = false)
      : decay_{checked(decay)}, warm_up_{warm_up}, state_{state_extent<C> * sizeof(scalar)} {
    restart(net);
  }

  /// Takes the model's state as the average.
  void restart(model<C, Context>& net) {
    copy(net.state_ctx(), std::as_const(net).state().data(), state_extent<C>, state().data());
    steps_ = 0;
  }

  /// average <- average - (1 - decay) (average - state), after an optimizer step. A decay of 0 makes the average the
  /// state, to the last bit. Of the slice `own` alone, where there are several processes.
  void step(model<C, Context>& net, state_slice own = whole_state<C>) {
    scalar const* const present = std::as_const(net).state().data() + own.first;
    scalar* const average = state().data() + own.first;
    double const decay = next_decay();
    if (decay > 0)
      ema_step(net.state_ctx(), average, present, own.size(), decay);
    else
      copy(net.state_ctx(), present, own.size(), average);
  }

  /// Counts a step, and returns the part of the average that it keeps.
  double next_decay() {
    double const t = double(++steps_);
    return warm_up_ ? std::min(decay_, (1 + t) / (10 + t)) : decay_;
  }

  /// Exchanges the averages and the model's state: call before a validation and again after it.
  void swap(model<C, Context>& net) { exchange(net.state_ctx(), net.state().data(), state().data(), state_extent<C>); }

  /// The averages, laid out as the model's state.
  /// Throws std::logic_error where they were moved away.
  [[nodiscard]] std::span<scalar> state() {
    detail::require_memory(state_.data() != nullptr, "dm2::ema");
    return {reinterpret_cast<scalar*>(state_.data()), state_extent<C>};
  }
  /// @copydoc state()
  [[nodiscard]] std::span<scalar const> state() const {
    detail::require_memory(state_.data() != nullptr, "dm2::ema");
    return {reinterpret_cast<scalar const*>(state_.data()), state_extent<C>};
  }
  /// Steps averaged since the start or restart().
  [[nodiscard]] std::int64_t steps() const { return steps_; }
  /// Sets the steps averaged, when a run is resumed; the warm-up depends on them.
  void set_steps(std::int64_t steps) { steps_ = steps; }
  /// The part of the average that a step keeps, once warm.
  [[nodiscard]] double decay() const { return decay_; }

 private:
  static double checked(double decay) {
    detail::require_option(decay >= 0 && decay < 1, "ema: decay", decay, "at least 0 and below 1");
    return decay;
  }

  double decay_;
  bool warm_up_;
  typename model<C, Context>::state_context::buffer state_;
  std::int64_t steps_ = 0;
};

}  // namespace dm2
