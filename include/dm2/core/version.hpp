/// @file
/// The library's version.
#pragma once

#include <dm2/core/compiler.hpp>

namespace dm2 {

/// The version, "major.minor.patch": the one of CMake's project().
inline constexpr char const* version_text = "0.1.0";

}  // namespace dm2
