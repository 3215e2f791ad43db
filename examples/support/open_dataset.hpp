/// @file
/// Opens a set of pictures whose classes have been told.
#pragma once

#include <dm2/data/dataset.hpp>

#include "command_line.hpp"

#include <filesystem>
#include <utility>

namespace dm2::example {

/// dataset{root, options}, for every command: a class folder that is none of options.classes is a usage_error, the exit
/// code of pictures that do not fit the model. Throws file_error as dataset does.
[[nodiscard]] inline dataset open_dataset(std::filesystem::path const& root, dataset_options options) {
  try {
    return dataset{root, std::move(options)};
  } catch (unknown_class const& problem) {
    throw usage_error{problem.what()};
  }
}

}  // namespace dm2::example
