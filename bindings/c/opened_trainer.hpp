/// @file
/// A model in training behind a C handle.
#pragma once

#include <dm2/data/batch.hpp>
#include <dm2/model/config.hpp>
#include <dm2/train/training_state.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "code.hpp"
#include "dm2.h"

/// What a dm2_trainer handle is.
struct dm2_trainer {
  std::mutex mutex;  ///< held by the call that is in it
  dm2::config configuration;
  dm2::c::place where;
  int micro_batch = 0, accumulate = 0;
  bool mix_token = false, diverged = false;
  std::uint64_t seed = 0;
  std::size_t batches = 0;  ///< micro-batches done
  std::map<std::string, std::string> metadata;
  std::unique_ptr<dm2::training_state> state;
  dm2::batch next;  ///< the micro-batch that is handed over

  /// One step over a caller's batch, which was checked.
  [[nodiscard]] dm2_step step(dm2_batch const& b, double rate);
  /// Throws failure for a batch that is not this trainer's.
  void require_batch(dm2_batch const& b) const;
  /// As the C functions.
  void save(std::filesystem::path const& path, bool averages);
  /// As the C functions.
  void save_checkpoint(std::filesystem::path const& path);
  /// As the C functions.
  void resume(std::filesystem::path const& path);

 private:
  void fill(dm2_batch const& b, std::size_t first);
  void compute(dm2_batch const& b, double rate);
};

namespace dm2::c {

/// Makes a trainer. Throws failure, file_error and what the training state throws.
[[nodiscard]] std::shared_ptr<dm2_trainer> open_trainer(dm2_trainer_options const& options);

/// The published recipe.
[[nodiscard]] dm2_trainer_options published_recipe();

}  // namespace dm2::c
