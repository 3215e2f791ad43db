/// @file
/// Which model a file of weights is, for the programs that load it.
#pragma once

#include <dm2/io/tensor_file.hpp>
#include <dm2/model/config.hpp>
#include <dm2/run/config_of_file.hpp>
#include <dm2/run/told_model.hpp>

#include "model_flags.hpp"
#include "weights_file.hpp"

#include <optional>
#include <string>

namespace dm2::example {

/// The configuration of the model in a file, which says what the flags leave open. What was assumed is noted on stderr.
///
/// Throws file_error where the file holds no DeMansia 2, usage_error where a flag contradicts it.
[[nodiscard]] inline config choose_model(std::string const& program, tensor_file const& file,
                                         model_flags const& flags) {
  told_model const told = settle(flags, config_of(file, said_fields(flags)), std::nullopt);
  print_notices(program, file, told.notices);
  return told.configuration;
}

}  // namespace dm2::example
