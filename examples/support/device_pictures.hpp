/// @file
/// What a device does to pictures before it computes with them.
#pragma once

namespace dm2::example {

/// What the device does to pictures before it computes with them.
struct device_pictures {
  bool finishes = true;  ///< where it can
  bool decodes = false;  ///< of those that it finishes, JPEGs that it can decode
};

}  // namespace dm2::example
