/// @file
/// The patch head's view of one class, drawn over the picture.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/data/colour_map.hpp>
#include <dm2/data/evaluation_region.hpp>
#include <dm2/data/picture.hpp>
#include <dm2/data/transform.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace dm2 {

/// A number for each patch of a grid, [grid height, grid width].
struct patch_map {
  image_extent grid;         ///< rows and columns
  std::vector<float> value;  ///< [grid height, grid width]
};

/// The softmax probability of class `index` in each patch.
///
/// Shapes   patches [grid height, grid width, classes].
/// Throws   shape_error if patches has another size or there is no such class.
[[nodiscard]] inline patch_map class_probability(std::span<float const> patches, image_extent grid, std::size_t classes,
                                                 int index) {
  if (grid.height < 1 || grid.width < 1 || index < 0 || std::size_t(index) >= classes)
    throw shape_error{"class_probability: class " + std::to_string(index) + " of " + std::to_string(classes) +
                      ", grid " + std::to_string(grid.height) + " x " + std::to_string(grid.width)};
  require_extent("class_probability: patches", patches.size(),
                 std::size_t(grid.height) * std::size_t(grid.width) * classes);
  patch_map out{grid, {}};
  for (std::size_t at = 0; at < patches.size(); at += classes) {
    auto const logits = patches.subspan(at, classes);
    double const largest = double(*std::max_element(logits.begin(), logits.end()));
    double total = 0;
    for (float const x : logits) total += std::exp(double(x) - largest);
    out.value.push_back(float(std::exp(double(logits[std::size_t(index)]) - largest) / total));
  }
  return out;
}

/// Moves and scales the map to 0 .. 1; a constant one becomes 0. Returns its least and largest values before. Throws
/// shape_error if it has no value.
inline std::array<float, 2> stretch(patch_map& map) {
  if (map.value.empty()) throw shape_error{"stretch: a map without values"};
  auto const [low, high] = std::minmax_element(map.value.begin(), map.value.end());
  float const least = *low, most = *high;
  for (float& v : map.value) v = most > least ? (v - least) / (most - least) : 0;
  return {least, most};
}

namespace detail {

/// Four neighbours along an axis and their weights.
struct cubic_taps {
  std::array<std::size_t, 4> at;
  std::array<float, 4> weight;
};

/// Catmull-Rom weights at `position` (cell i covers [i, i + 1), its value stands in its middle); the ends are repeated.
[[nodiscard]] inline cubic_taps taps_at(double position, int count) {
  double const from = std::floor(position - 0.5), t = position - 0.5 - from;
  std::array<double, 4> const weight{t * (t * (2 - t) - 1) / 2, (t * t * (3 * t - 5) + 2) / 2,
                                     t * (t * (4 - 3 * t) + 1) / 2, t * t * (t - 1) / 2};
  cubic_taps out{};
  for (std::size_t k = 0; k < 4; ++k) {
    out.at[k] = std::size_t(std::clamp(int(from) + int(k) - 1, 0, count - 1));
    out.weight[k] = float(weight[k]);
  }
  return out;
}

/// The taps of each pixel along an axis, and which pixels [first, last) the model saw.
struct seen_axis {
  int first = 0, last = 0;
  std::vector<cubic_taps> taps;
};

[[nodiscard]] inline seen_axis look_along(int pixels, double begin, double length, int cells) {
  seen_axis out;
  out.first = std::clamp(int(std::lround(begin)), 0, pixels - 1);
  out.last = std::clamp(int(std::lround(begin + length)), out.first + 1, pixels);
  for (int i = 0; i < pixels; ++i) out.taps.push_back(taps_at((i + 0.5 - begin) / length * cells, cells));
  return out;
}

/// How light a pixel is, 0 to 255 (Rec. 601).
[[nodiscard]] inline float lightness(std::uint8_t const* rgb) {
  return 0.299f * float(rgb[0]) + 0.587f * float(rgb[1]) + 0.114f * float(rgb[2]);
}

/// One row of a heat map: `heat` [grid width] as colours over the picture's greys in the columns that the model saw.
inline void paint_row(std::uint8_t const* from, std::span<float const> heat, seen_axis const& across, bool seen,
                      std::uint8_t* to) {
  constexpr float cover = 0.55f, shade = 0.35f;
  for (int x = 0; x < int(across.taps.size()); ++x, from += 3, to += 3) {
    float const grey = lightness(from);
    if (!seen || x < across.first || x >= across.last) {
      std::fill_n(to, 3, std::uint8_t(shade * grey + 0.5f));
      continue;
    }
    cubic_taps const& taps = across.taps[std::size_t(x)];
    float value = 0;
    for (std::size_t k = 0; k < 4; ++k) value += taps.weight[k] * heat[taps.at[k]];
    blend_colour const paint = heat_colour(value);
    for (std::size_t c = 0; c < 3; ++c) to[c] = std::uint8_t((1 - cover) * grey + cover * paint[c] + 0.5f);
  }
}

}  // namespace detail

/// The map, 0 to 1, as colours over the picture in greys, in the picture's own resolution. What the evaluation crop
/// cuts off, and the model did not see, has no colour and is dark.
///
/// Throws shape_error if p has no pixel or the map is not a value a cell of a grid.
[[nodiscard]] inline picture draw_heatmap(picture const& p, patch_map const& map, picture_region region) {
  require_picture("draw_heatmap", p);
  if (map.grid.height < 1 || map.grid.width < 1) throw shape_error{"draw_heatmap: a grid without cells"};
  require_extent("draw_heatmap: values of the map", map.value.size(),
                 std::size_t(map.grid.height) * std::size_t(map.grid.width));
  detail::seen_axis const down = detail::look_along(p.height, region.top, region.height, map.grid.height);
  detail::seen_axis const across = detail::look_along(p.width, region.left, region.width, map.grid.width);
  auto const columns = std::size_t(map.grid.width);
  std::vector<float> row(columns);
  picture out{p.height, p.width};
  for (int y = 0; y < p.height; ++y) {
    detail::cubic_taps const& taps = down.taps[std::size_t(y)];
    std::fill(row.begin(), row.end(), 0.0f);
    for (std::size_t k = 0; k < 4; ++k)
      for (std::size_t x = 0; x < columns; ++x) row[x] += taps.weight[k] * map.value[taps.at[k] * columns + x];
    detail::paint_row(p.row(y), row, across, y >= down.first && y < down.last, out.row(y));
  }
  return out;
}

}  // namespace dm2
