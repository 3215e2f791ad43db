/// @file
/// A training run's options, and its reports of steps and epochs.
#pragma once

#include <dm2/comm/communicator.hpp>
#include <dm2/core/label_map.hpp>
#include <dm2/core/optimizer_options.hpp>
#include <dm2/train/evaluation.hpp>
#include <dm2/train/schedule.hpp>
#include <dm2/train/time_parts.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace dm2 {

/// Training met a number that is not finite. what() names the epoch and the step, counted from 1, and the first tensor
/// that holds one.
struct divergence_error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// An epoch's results.
struct epoch_report {
  int epoch = 0;          ///< from 0
  std::int64_t step = 0;  ///< optimizer steps so far
  double rate = 0;        ///< learning rate
  double train_loss = 0;  ///< mean over the epoch's micro-batches
  evaluation validation;  ///< of the averaged weights; no samples without a validation set
  bool best = false;      ///< validation accuracy, or without a validation set the loss, is the run's best so far
  double seconds = 0;     ///< that the epoch's training took, validation left out
  double validating = 0;  ///< seconds that the validation took
  double waiting = 0;     ///< seconds of the training spent waiting for data
  traffic exchanged{};    ///< between the processes, by process 0
  int slowest = 0;        ///< the process that worked longest, its waiting for data included
  double lead = 0;        ///< seconds of its work over the processes' mean, less 1
  std::vector<time_parts> processes{};  ///< the training's times, of each process
};

/// An optimizer step's results.
struct step_report {
  int epoch = 0;             ///< from 0
  std::int64_t step = 0;     ///< optimizer steps so far, this one included
  std::size_t batch = 0;     ///< micro-batches done in the epoch
  std::size_t batches = 0;   ///< micro-batches of the whole epoch
  double rate = 0;           ///< learning rate
  double loss = 0;           ///< mean over the step's micro-batches
  double gradient_norm = 0;  ///< before clipping; 0 where clipping is off
  int samples = 0;           ///< in this step
  double waiting = 0;        ///< seconds waited for data since the loader was made
  time_parts times{};        ///< of process 0, since the report before it or the epoch's beginning
};

/// The defaults are the published recipe's.
struct trainer_options {
  int batch = 256;                                     ///< samples of a micro-batch
  int accumulate = 4;                                  ///< micro-batches a step; each one's loss is divided by this
  schedule rates{};                                    ///< learning rate of each epoch, and how many epochs
  optimizer_options optimizer{};                       ///< the rule that moves the weights
  double ema_decay = 0.9999;                           ///< part of the weights' average that a step keeps
  bool ema_warm_up = false;                            ///< start with a smaller decay (ema)
  double smoothing = 0.1;                              ///< of the targets: 0 for none, 1 for uniform (label_smoothing)
  bool mix_token = true;                               ///< samples exchange a box of patches, one a micro-batch
  crop_convention crops = crop_convention::published;  ///< how label maps are cut; unused without them
  std::uint64_t seed = 0;                              ///< of the boxes; the loader's draws have its own
  int stop_after = 0;                 ///< end after this many epochs, for a part of a longer schedule; 0 for all
  std::int64_t checkpoint_steps = 0;  ///< write the last checkpoint every so many steps too; 0 after epochs only
  std::map<std::string, std::string> metadata{};        ///< added to every checkpoint
  std::function<void(step_report const&)> on_step{};    ///< after each optimizer step, by the thread in run()
  std::function<void(epoch_report const&)> on_epoch{};  ///< after the epoch's validation, before its checkpoint
  std::function<void(std::filesystem::path const&)> on_checkpoint{};  ///< after each checkpoint that is on the disk
  std::atomic<bool> const* stop =
      nullptr;  ///< set from a signal handler: the run ends after the present step, with a checkpoint
};

/// Differences between a resumed run and the one that wrote its checkpoint.
struct resume_report {
  /// Why the best epoch so far does not count any more: it was told by another measure (accuracy, or without a
  /// validation set the loss), or on other pictures. Empty where it counts, and where there was none.
  std::string best_left_out;
  bool other_pictures = false;  ///< the training set has other classes, or names of pictures, than it had
};

}  // namespace dm2
