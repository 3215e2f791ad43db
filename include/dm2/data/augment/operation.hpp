/// @file
/// The operations of RandAugment whose effect grows with their magnitude.
#pragma once

#include <dm2/core/host_device.hpp>

#include <array>
#include <cstddef>
#include <string_view>

namespace dm2 {

/// timm's fifteen 'increasing' operations, in its order.
enum class augment_operation : unsigned char {
  auto_contrast,
  equalize,
  invert,
  rotate,
  posterize,
  solarize,
  solarize_add,
  color,
  contrast,
  brightness,
  sharpness,
  shear_x,
  shear_y,
  translate_x,
  translate_y
};

/// timm's name of each operation.
inline constexpr std::array<std::string_view, 15> augment_operation_names{"AutoContrast",
                                                                          "Equalize",
                                                                          "Invert",
                                                                          "Rotate",
                                                                          "PosterizeIncreasing",
                                                                          "SolarizeIncreasing",
                                                                          "SolarizeAdd",
                                                                          "ColorIncreasing",
                                                                          "ContrastIncreasing",
                                                                          "BrightnessIncreasing",
                                                                          "SharpnessIncreasing",
                                                                          "ShearX",
                                                                          "ShearY",
                                                                          "TranslateXRel",
                                                                          "TranslateYRel"};

/// How many operations there are.
inline constexpr std::size_t augment_operation_count = augment_operation_names.size();

/// timm's name of an operation.
[[nodiscard]] constexpr std::string_view name_of(augment_operation o) noexcept {
  return augment_operation_names[static_cast<std::size_t>(o)];
}

/// Whether the operation moves pixels, and the label map's cells with them.
[[nodiscard]] DM2_HOST_DEVICE constexpr bool is_geometric(augment_operation o) noexcept {
  return o == augment_operation::rotate || o >= augment_operation::shear_x;
}

}  // namespace dm2
