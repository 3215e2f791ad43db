/// @file
/// Numbers as colours.
#pragma once

#include <dm2/core/compiler.hpp>

#include <algorithm>
#include <array>
#include <cstddef>

namespace dm2 {

/// Red, green, blue, 0 to 255.
using blend_colour = std::array<float, 3>;

/// From deep blue (0) over teal and yellow to red (1), linear between; a NaN counts as 0. Lightness rises up to yellow.
[[nodiscard]] inline blend_colour heat_colour(float value) {
  constexpr std::array<blend_colour, 5> stops{
      {{38, 38, 140}, {28, 120, 190}, {50, 185, 130}, {250, 215, 60}, {215, 35, 30}}};
  float const at = value > 0 ? std::min(value, 1.0f) * float(stops.size() - 1) : 0;
  std::size_t const i = std::min(std::size_t(at), stops.size() - 2);
  blend_colour out{};
  for (std::size_t c = 0; c < 3; ++c) out[c] = stops[i][c] + (stops[i + 1][c] - stops[i][c]) * (at - float(i));
  return out;
}

}  // namespace dm2
