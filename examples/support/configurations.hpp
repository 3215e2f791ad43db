/// @file
/// The small configurations of the example programs and their checkpoints.
#pragma once

#include <dm2/model/presets.hpp>

namespace dm2::example {

using presets::micro;
using presets::quick;

}  // namespace dm2::example
