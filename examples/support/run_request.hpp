/// @file
/// The request of a training run, with every flag settled.
#pragma once

#include <dm2/comm/communicator.hpp>

#include <nlohmann/json.hpp>

#include "resumed_flags.hpp"
#include "training_data.hpp"
#include "training_flags.hpp"
#include "training_folder.hpp"

#include <optional>
#include <string>
#include <vector>

namespace dm2::example {

/// The request; what it refers to outlives it.
struct run_request {
  training_flags flags;
  std::string name;                  ///< of the model, for people
  nlohmann::ordered_json arguments;  ///< the recipe's flags, which every checkpoint stores
  training_folder& folder;
  std::optional<resume_point> from;  ///< the checkpoint that the run goes on with
  resumed_flags resumed;             ///< what of its flags was taken over
  communicator& processes;           ///< of the run
  training_data& data;
  std::vector<std::string> known;  ///< the class names of the checkpoint
};

}  // namespace dm2::example
