/// @file
/// Affine warps of a label map, as SciPy's affine_transform of order 0.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/data/label_map_data.hpp>
#include <dm2/data/resample_weights.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace dm2 {

/// Where a warped label map's cell comes from: output (y, x) is input (yy y + yx x + y0, xy y + xx x + x0), both
/// counted in cells, so that a cell's centre is at a whole number.
struct cell_map {
  double yy = 1;  ///< input rows an output row
  double yx = 0;  ///< input rows an output column
  double y0 = 0;  ///< the input row, in cells, of output (0, 0)
  double xy = 0;  ///< input columns an output row
  double xx = 1;  ///< input columns an output column
  double x0 = 0;  ///< the input column, in cells, of output (0, 0)
};

/// Throws shape_error naming `what` unless the map has at least one cell and [2, 5, height, width] values.
inline void require_label_map(char const* what, label_map_data const& map) {
  if (map.height < 1 || map.width < 1)
    throw shape_error{std::string{what} + ": a label map of " + std::to_string(map.height) + " x " +
                      std::to_string(map.width) + " has no cell"};
  require_extent(what, map.values.size(),
                 10 * static_cast<std::size_t>(map.height) * static_cast<std::size_t>(map.width));
}

namespace detail {

/// The index of 0..size - 1 nearest to v, halves up.
[[nodiscard]] inline std::size_t nearest_index(double v, int size) noexcept {
  double const within = std::min(static_cast<double>(size - 1), std::max(0.0, v));
  return static_cast<std::size_t>(within + 0.5);
}

}  // namespace detail

/// Warps a label map in place. Each cell takes the nearest cell of before; a cell that comes from beyond the centres of
/// the outermost ones has scores 0, and the class indices of the nearest on the border.
///
/// Throws shape_error if the map's values disagree with its sides.
inline void warp(label_map_data& map, cell_map const& m) {
  require_label_map("warp", map);
  auto const width = static_cast<std::size_t>(map.width);
  std::size_t const cells = static_cast<std::size_t>(map.height) * width;
  std::vector<float> out(map.values.size());
  for (int y = 0; y < map.height; ++y)
    for (int x = 0; x < map.width; ++x) {
      double const from_y = detail::rounded_product(m.yy, y) + detail::rounded_product(m.yx, x) + m.y0;
      double const from_x = detail::rounded_product(m.xy, y) + detail::rounded_product(m.xx, x) + m.x0;
      bool const inside = from_y >= 0 && from_y <= map.height - 1 && from_x >= 0 && from_x <= map.width - 1;
      std::size_t const to = static_cast<std::size_t>(y) * width + static_cast<std::size_t>(x);
      std::size_t const from =
          detail::nearest_index(from_y, map.height) * width + detail::nearest_index(from_x, map.width);
      for (std::size_t k = inside ? 0 : 5; k < 10; ++k) out[k * cells + to] = map.values[k * cells + from];
    }
  map.values = std::move(out);
}

}  // namespace dm2
