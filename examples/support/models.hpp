/// @file
/// The model of a weights file, or of a command to train.
#pragma once

#include <dm2/io/tensor_file.hpp>
#include <dm2/model/config.hpp>
#include <dm2/run/told_model.hpp>

#include "model_flags.hpp"

#include <filesystem>
#include <string>

namespace dm2::example {

/// The model in a file, which says what the flags leave open. Its notices are what was assumed.
///
/// Throws as choose_model.
[[nodiscard]] told_model tell_model(tensor_file const& file, model_flags const& flags);

/// The configuration of the model in a file, which says what the flags leave open. What was assumed is noted on stderr.
///
/// Throws file_error where the file holds no DeMansia 2, usage_error where a flag contradicts it.
[[nodiscard]] config choose_model(std::string const& program, tensor_file const& file, model_flags const& flags);

/// The model that a run trains: that of the checkpoint `from`, else the flags' over that of the weights to start from
/// (where --model names no other), with as many classes as the data where nothing tells their number. Both paths may be
/// empty. What was assumed is noted on stderr.
///
/// Throws usage_error as settle does, file_error where a file tells no model.
[[nodiscard]] told_model choose_trained_model(model_flags const& flags, std::filesystem::path const& from,
                                              std::filesystem::path const& weights, int classes);

}  // namespace dm2::example
