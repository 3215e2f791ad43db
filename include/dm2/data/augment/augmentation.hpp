/// @file
/// The random changes that training makes to a picture, as numbers.
#pragma once

#include <dm2/data/augment/warp.hpp>
#include <dm2/data/normalise.hpp>

#include <stdexcept>
#include <string>

namespace dm2 {

/// The random part of the training transform. The defaults are those of the published recipe.
struct augmentation {
  double flip = 0.5;  ///< probability of mirroring left to right

  int operations = 2;                  ///< RandAugment operations drawn, with replacement
  double operation_probability = 0.5;  ///< with which a drawn operation is applied
  double magnitude = 9;                ///< mean of an operation's magnitude, on a scale of 10
  double magnitude_std = 0.5;          ///< its standard deviation; infinite: uniform from 0 to `magnitude`
  double magnitude_max = 10;           ///< magnitudes are clamped to 0 and this
  colour fill = imagenet_colour;       ///< shown by geometric operations beyond the picture's edge

  double area_min = 0.08;      ///< least area of the crop, as part of the picture's; drawn uniformly
  double area_max = 1;         ///< greatest area of the crop, at most 1
  double ratio_min = 3.0 / 4;  ///< least aspect of the crop, width over height; drawn log-uniformly
  double ratio_max = 4.0 / 3;  ///< greatest aspect of the crop, width over height

  normalisation norm = imagenet_normalisation;  ///< applied to the resized crop

  double erase = 0.25;              ///< probability of erasing a rectangle
  double erase_area_min = 0.02;     ///< least area of the rectangle, as part of the crop's; drawn uniformly
  double erase_area_max = 1.0 / 3;  ///< greatest area of the rectangle, at most 1
  double erase_ratio_min = 0.3;     ///< least aspect of the rectangle, height over width; drawn log-uniformly
  double erase_ratio_max = 3.3;     ///< greatest aspect of the rectangle, height over width
};

/// Throws std::invalid_argument, naming the field and its value, where one is out of range. Probabilities are 0 to 1,
/// counts and magnitudes at least 0, ranges of positive numbers.
inline void require_augmentation(augmentation const& a) {
  auto const demand = [](bool holds, char const* field, double value, char const* wanted) {
    if (!holds)
      throw std::invalid_argument{std::string{"augmentation: "} + field + " is " + std::to_string(value) +
                                  ", expected " + wanted};
  };
  auto const probability = [&](char const* field, double v) { demand(v >= 0 && v <= 1, field, v, "0..1"); };
  auto const range = [&](char const* low_field, double low, char const* high_field, double high, double most) {
    demand(low > 0 && low <= most, low_field, low, most == 1 ? "more than 0, at most 1" : "more than 0");
    demand(high >= low && high <= most, high_field, high, "at least the range's other end, and in bounds");
  };
  probability("flip", a.flip);
  probability("operation_probability", a.operation_probability);
  probability("erase", a.erase);
  demand(a.operations >= 0, "operations", a.operations, "0 or more");
  demand(a.magnitude >= 0 && a.magnitude <= 100, "magnitude", a.magnitude, "0..100");
  demand(a.magnitude_std >= 0, "magnitude_std", a.magnitude_std, "0 or more");
  demand(a.magnitude_max >= 0 && a.magnitude_max <= 100, "magnitude_max", a.magnitude_max, "0..100");
  range("area_min", a.area_min, "area_max", a.area_max, 1);
  range("ratio_min", a.ratio_min, "ratio_max", a.ratio_max, 1e6);
  range("erase_area_min", a.erase_area_min, "erase_area_max", a.erase_area_max, 1);
  range("erase_ratio_min", a.erase_ratio_min, "erase_ratio_max", a.erase_ratio_max, 1e6);
}

}  // namespace dm2
