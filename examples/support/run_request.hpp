/// @file
/// What a training run is asked for, once every question of the command line is settled.
#pragma once

#include <dm2/comm/communicator.hpp>

#include <nlohmann/json.hpp>

#include "resumed_flags.hpp"
#include "training_flags.hpp"
#include "training_folder.hpp"

#include <optional>

namespace dm2::example {

/// The request; the folder outlives it.
struct run_request {
  training_flags flags;
  nlohmann::ordered_json arguments;  ///< the recipe's flags, which every checkpoint stores
  training_folder& folder;
  std::optional<resume_point> from;  ///< the checkpoint that the run goes on with
  resumed_flags resumed;             ///< what of its flags was taken over
  communicator& processes;           ///< of the run; outlives it
};

}  // namespace dm2::example
