/// @file
/// The interface to what a training loop moves, for any backend.
#pragma once

#include <dm2/core/operands.hpp>
#include <dm2/core/optimizer_options.hpp>
#include <dm2/core/parameters.hpp>
#include <dm2/data/batch.hpp>
#include <dm2/model/config.hpp>
#include <dm2/train/evaluation.hpp>
#include <dm2/train/steps.hpp>
#include <dm2/train/time_parts.hpp>

#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <optional>
#include <span>
#include <variant>

namespace dm2 {

/// What a model is trained with, beside the data.
struct model_training_options {
  step_options steps{};           ///< sizes and targets
  optimizer_options optimizer{};  ///< the rule that moves the weights
  double ema_decay = 0.9999;      ///< part of the average that a step keeps
  bool ema_warm_up = false;       ///< start with a smaller decay (ema)
};

/// The numbers of a run that a checkpoint holds, laid out as the model's table says.
template <class T>
struct training_numbers {
  std::span<parameter_entry const> table;  ///< of the model
  std::span<T> state;                      ///< weights and running statistics
  std::span<T> average;                    ///< the averaged state
  std::span<T> momentum;                   ///< the optimizer's first moment
  std::span<T> second;                     ///< its second moment; empty where it has none
  std::span<std::int64_t> counters;        ///< BatchNorm's step counts
};

/// The same in the type that the backend computes in.
using any_training_numbers = std::variant<training_numbers<float>, training_numbers<double>>;
/// Values in the type that the backend computes in.
using any_values = std::variant<std::span<float const>, std::span<double const>>;

/// Steps done by an optimizer and by an average.
struct steps_done {
  std::int64_t optimizer = 0;  ///< moves of the weights
  std::int64_t average = 0;    ///< moves of the average
};

/// A model, its optimizer and average, and the engine of its steps: all of a run that depends on the configuration and
/// the backend. training_loop does the rest.
///
/// The numbers are the caller's to see and to change between steps; a backend that keeps copies elsewhere brings them
/// up to date in pull() and takes them over in push().
class training_state {
 public:
  virtual ~training_state() = default;

  /// The model's configuration.
  [[nodiscard]] virtual config const& configuration() const = 0;
  /// Weights, averages and moments, on the host.
  [[nodiscard]] virtual any_training_numbers numbers() = 0;
  /// The optimizer's rule and its numbers.
  [[nodiscard]] virtual optimizer_options const& rule() const = 0;
  /// Steps done so far.
  [[nodiscard]] virtual steps_done steps() const = 0;
  /// Sets them, when a run is resumed.
  virtual void set_steps(steps_done done) = 0;
  /// Takes the model's state as the average.
  virtual void restart_average() = 0;
  /// Exchanges the averages and the model's state: before a validation, and again after it.
  virtual void swap_average() = 0;

  /// @copydoc step_engine::micro_batch
  virtual void micro_batch(batch const& b, mix_box box, double scale) = 0;
  /// @copydoc step_engine::finish_round
  virtual void finish_round(int count, step_place first, bool stop) = 0;
  /// @copydoc step_engine::finish_step
  virtual void finish_step(double rate) = 0;
  /// @copydoc step_engine::next_result
  [[nodiscard]] virtual std::optional<step_result> next_result(bool wait) = 0;
  /// @copydoc step_engine::pull
  virtual void pull() = 0;
  /// @copydoc step_engine::push
  virtual void push() = 0;
  /// The pictures of the latest micro-batch, [size, channels, height, width].
  [[nodiscard]] virtual any_values pictures() = 0;
  /// Where the memory of raw pictures is to come from, where micro_batch and count take batches of them (batch::raw);
  /// null where they do not.
  [[nodiscard]] virtual std::pmr::memory_resource* raw_memory() { return nullptr; }
  /// What decodes pictures that such batches leave encoded (loader::leave_raw); null where nothing does.
  [[nodiscard]] virtual raw_decoder* picture_decoder() { return nullptr; }
  /// Gradients of the latest micro-batch, laid out as the state.
  [[nodiscard]] virtual any_values gradients() = 0;

  /// Seconds that this process has computed micro-batches.
  [[nodiscard]] virtual double seconds_computing() = 0;
  /// Seconds that a device has copied raw pictures and worked on them.
  [[nodiscard]] virtual device_times seconds_augmenting() { return {}; }

  /// How often the model, as its state is, is right on a batch.
  [[nodiscard]] virtual evaluation count(batch const& b) = 0;
  /// What the model, as its state is, says of one picture: logits of the class token and of each patch.
  ///
  /// Shapes   pictures [channels, height, width], cls [classes], patches [tokens - 1, classes].
  /// Writes   cls (=), patches (=).
  virtual void patches(std::span<float const> picture, std::span<float> cls, std::span<float> patches) = 0;
};

}  // namespace dm2
