/// @file
/// Training of a model of one configuration: its state and the training loop.
#pragma once

#include <dm2/comm/communicator.hpp>
#include <dm2/data/loader.hpp>
#include <dm2/train/ema.hpp>
#include <dm2/train/evaluate.hpp>
#include <dm2/train/model_training.hpp>
#include <dm2/train/run_folder.hpp>
#include <dm2/train/trainer_options.hpp>
#include <dm2/train/training_checkpoint.hpp>
#include <dm2/train/training_loop.hpp>

#include <cstdint>
#include <filesystem>
#include <utility>

namespace dm2 {

/// Trains a model over a loader.
///
/// A run's numbers are a function of the options, the data and the number of compute threads, which is each process's
/// where there are several: not of the number of processes. A resumed run goes on with the bytes that an uninterrupted
/// one would have had, from whatever checkpoint, on any number of processes.
///
/// Several processes each make a model, loaders with their rank and a trainer, with the same options, and call the same
/// things in the same order. Process 0 writes the checkpoints, and has the reports.
template <config C, class Context>
class trainer {
 public:
  /// The type of weights, pictures and gradients.
  using scalar = typename Context::scalar;

  /// The model holds the parameters to start with. `validation` may be null. The referenced objects outlive the
  /// trainer. The training loader's groups are the options' accumulated micro-batches.
  ///
  /// Throws std::invalid_argument, with both values, if an option is out of range, or a loader has another batch, mode,
  /// rank or group than the trainer, or (as shape_error) other pictures or classes than the model; or if there are more
  /// processes than micro-batches in a step.
  trainer(model<C, Context>& net, trainer_options options, loader& training, loader* validation, run_folder folder,
          communicator& processes = one_process())
      : training_{net, state_options(checked(options, training, validation, processes)), processes},
        loop_{training_, std::move(options), training, validation, std::move(folder), processes} {}

  trainer(trainer const&) = delete;
  trainer& operator=(trainer const&) = delete;

  /// @copydoc training_loop::resume
  resume_report resume(std::filesystem::path const& path, bool with_optimizer = true) {
    return loop_.resume(path, with_optimizer);
  }
  /// @copydoc training_loop::run
  bool run() { return loop_.run(); }
  /// @copydoc training_loop::epoch
  [[nodiscard]] int epoch() const { return loop_.epoch(); }
  /// @copydoc training_loop::steps
  [[nodiscard]] std::int64_t steps() const { return loop_.steps(); }
  /// @copydoc training_loop::best
  [[nodiscard]] double best() const { return loop_.best(); }
  /// @copydoc training_loop::best_epoch
  [[nodiscard]] int best_epoch() const { return loop_.best_epoch(); }
  /// What decodes pictures that raw batches leave encoded (loader::leave_raw), before the run; null on a CPU.
  [[nodiscard]] raw_decoder* picture_decoder() { return training_.picture_decoder(); }
  /// The averaged weights.
  [[nodiscard]] ema<C, Context>& average() { return training_.average(); }

 private:
  static trainer_options const& checked(trainer_options const& o, loader const& training, loader const* validation,
                                        communicator const& processes) {
    static_assert(C.channels == 3, "dm2::loader: config.channels must be 3, its pictures are RGB");
    training_loop::require_options(C, o, training, validation, processes);
    return o;
  }

  model_training<C, Context> training_;
  training_loop loop_;
};

}  // namespace dm2
