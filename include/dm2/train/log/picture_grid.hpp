/// @file
/// Many pictures as one.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/data/picture.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>

namespace dm2 {

namespace detail {

/// count * cell + (count - 1) * gap, the length of a row of cells. Throws shape_error past what an int holds.
[[nodiscard]] inline int grid_length(std::size_t count, int cell, int gap) {
  constexpr auto most = static_cast<std::size_t>(std::numeric_limits<int>::max());
  auto const each = static_cast<std::size_t>(cell) + static_cast<std::size_t>(gap);
  if (count > most / each)
    throw shape_error{"picture_grid: " + std::to_string(count) + " cells of " + std::to_string(cell) + " pixels and " +
                      std::to_string(gap) + " between are too many"};
  return static_cast<int>(count * each) - gap;
}

}  // namespace detail

/// The pictures in rows of `columns`, from the left, then down, with `gap` pixels of grey level `paper` between them.
/// A cell is as large as the largest picture; smaller ones stand in its middle. Where there are fewer pictures than
/// columns, the grid is as wide as they are.
///
/// Throws shape_error if there is no picture, one has no pixel, columns < 1 or gap < 0.
[[nodiscard]] inline picture picture_grid(std::span<picture const> pictures, int columns, int gap,
                                          std::uint8_t paper = 255) {
  if (pictures.empty() || columns < 1 || gap < 0)
    throw shape_error{"picture_grid: " + std::to_string(pictures.size()) + " pictures, " + std::to_string(columns) +
                      " columns, a gap of " + std::to_string(gap)};
  int height = 0, width = 0;
  for (picture const& p : pictures) {
    require_picture("picture_grid", p);
    height = std::max(height, p.height);
    width = std::max(width, p.width);
  }
  auto const across = std::min(static_cast<std::size_t>(columns), pictures.size());
  auto const down = (pictures.size() + across - 1) / across;
  picture out{detail::grid_length(down, height, gap), detail::grid_length(across, width, gap)};
  std::fill(out.pixels.begin(), out.pixels.end(), paper);
  for (std::size_t i = 0; i < pictures.size(); ++i) {
    picture const& p = pictures[i];
    int const top = static_cast<int>(i / across) * (height + gap) + (height - p.height) / 2;
    int const left = static_cast<int>(i % across) * (width + gap) + (width - p.width) / 2;
    for (int y = 0; y < p.height; ++y)
      std::copy_n(p.row(y), p.stride(), out.row(top + y) + 3 * static_cast<std::size_t>(left));
  }
  return out;
}

}  // namespace dm2
