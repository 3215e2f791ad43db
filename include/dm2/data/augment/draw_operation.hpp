/// @file
/// The random draws of RandAugment.
#pragma once

#include <dm2/core/random.hpp>
#include <dm2/data/augment/augmentation.hpp>
#include <dm2/data/augment/operation.hpp>
#include <dm2/data/resample_weights.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>

namespace dm2 {

/// A RandAugment operation with all that apply() needs.
struct drawn_operation {
  augment_operation operation;  ///< to apply
  double argument;              ///< how much, with its sign, in the operation's unit (operation_argument)
  resize_filter filter;         ///< how geometric operations sample the picture; the others do not use it
};

/// The argument that apply() takes for a magnitude m on a scale of 10; `negative` is the random sign, which rotations,
/// shears, translations and blends have.
///
/// rotate 30 m/10 degrees; shear 0.3 m/10; translate 0.45 m/10; posterize 4 - int(4 m/10); solarize 256 - int(256
/// m/10); solarize_add int(110 m/10); color, contrast, brightness and sharpness 1 +- 0.9 m/10, at least 0.1; the others
/// 0.
[[nodiscard]] inline double operation_argument(augment_operation operation, double magnitude, bool negative) noexcept {
  using enum augment_operation;
  double const m = magnitude / 10;
  auto const with_sign = [&](double v) { return negative ? -v : v; };
  switch (operation) {
    case rotate:
      return with_sign(m * 30);
    case shear_x:
    case shear_y:
      return with_sign(m * 0.3);
    case translate_x:
    case translate_y:
      return with_sign(m * 0.45);
    case posterize:
      return 4 - std::trunc(m * 4);
    case solarize:
      return 256 - std::trunc(m * 256);
    case solarize_add:
      return std::trunc(m * 110);
    case color:
    case contrast:
    case brightness:
    case sharpness:
      return std::max(0.1, 1 + with_sign(m * 0.9));
    case auto_contrast:
    case equalize:
    case invert:
      break;
  }
  return 0;
}

/// Normal about a.magnitude, clamped to 0..a.magnitude_max; uniform on 0..a.magnitude if the deviation is infinite.
[[nodiscard]] inline double draw_magnitude(augmentation const& a, random_stream& random) {
  double m = a.magnitude;
  if (std::isinf(a.magnitude_std))
    m = random.uniform(0, m);
  else if (a.magnitude_std > 0)
    m += a.magnitude_std * random.normal();
  return std::clamp(m, 0.0, a.magnitude_max);
}

/// Bilinear or bicubic, evenly.
[[nodiscard]] inline resize_filter draw_filter(random_stream& random) {
  return random.below(2) == 0 ? resize_filter::bilinear : resize_filter::bicubic;
}

/// One operation, evenly from all, its magnitude, sign and filter; none with probability 1 - a.operation_probability.
[[nodiscard]] inline std::optional<drawn_operation> draw_operation(augmentation const& a, random_stream& random) {
  auto const operation = static_cast<augment_operation>(random.below(std::uint32_t{augment_operation_count}));
  if (!random.chance(a.operation_probability)) return std::nullopt;
  double const magnitude = draw_magnitude(a, random);
  bool const negative = random.below(2) == 1;
  return drawn_operation{operation, operation_argument(operation, magnitude, negative), draw_filter(random)};
}

}  // namespace dm2
