/// @file
/// A configuration told by file, flags or data, and its assumptions.
#pragma once

#include <dm2/model/config.hpp>

#include <string>
#include <vector>

namespace dm2 {

/// What a run is told of its model.
struct told_model {
  config configuration;              ///< keeps every rule
  std::string name;                  ///< name_of(configuration), or the preset's: "tiny with classes 37"
  std::string source;                ///< who told it, for messages: a file's name, or "--model tiny"
  std::vector<std::string> notices;  ///< what was assumed or not understood, a line each
};

}  // namespace dm2
