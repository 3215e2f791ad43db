/// @file
/// The token-label map of a drawn picture: what a perfect teacher would have said of each part of it.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/random.hpp>
#include <dm2/data/label_map_file.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "classes.hpp"
#include "draw.hpp"

namespace dm2::example::shapes {

/// A cell belongs to the object from this cover on.
inline constexpr double covered_cell = 0.25;

namespace detail {

/// Part of each cell that the object covers, [cells, cells].
[[nodiscard]] inline std::vector<double> cell_cover(drawing const& d, int cells) {
  int const size = d.image.width, width = size / cells;
  std::vector<double> sum(std::size_t(cells) * std::size_t(cells));
  for (int y = 0; y < size; ++y)
    for (int x = 0; x < size; ++x)
      sum[std::size_t(y / width * cells + x / width)] += double(d.cover[std::size_t(y * size + x)]) / (width * width);
  return sum;
}

/// Five different classes, `first` (where it is one) before the others.
[[nodiscard]] inline std::array<int, 5> five_classes(int first, random_stream& random) {
  std::array<int, classes.size()> order{};
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = int(i);
  std::size_t begin = 0;
  if (first >= 0) std::swap(order[begin++], order[std::size_t(first)]);
  for (std::size_t i = begin; i < 5; ++i) std::swap(order[i], order[i + random.below(std::uint32_t(order.size() - i))]);
  return {order[0], order[1], order[2], order[3], order[4]};
}

}  // namespace detail

/// The map of a drawing in cells x cells points. Where the object covers a quarter of a cell or more, its class has the
/// highest score, 15 + 15 * cover; other scores are from 0 to 1, and go to classes at random. In each cell they
/// descend.
///
/// Throws shape_error unless the picture's side is a multiple of `cells`.
[[nodiscard]] inline label_map_data draw_label_map(drawing const& d, int cells, random_stream& random) {
  if (cells < 1 || d.image.width % cells != 0)
    throw shape_error{"draw_label_map: a picture of " + std::to_string(d.image.width) +
                      " pixels is not a multiple of " + std::to_string(cells) + " cells"};
  std::size_t const plane = std::size_t(cells) * std::size_t(cells);
  label_map_data map{cells, cells, std::vector<float>(10 * plane)};
  auto const cover = detail::cell_cover(d, cells);
  for (std::size_t cell = 0; cell < plane; ++cell) {
    bool const object = cover[cell] >= covered_cell;
    auto const index = detail::five_classes(object ? d.label : -1, random);
    std::array<double, 5> score{};
    for (double& s : score) s = random.uniform();
    if (object) score[0] = 15 + 15 * cover[cell];
    std::sort(score.begin(), score.end(), std::greater{});
    for (std::size_t k = 0; k < 5; ++k) {
      map.values[k * plane + cell] = float(score[k]);
      map.values[(5 + k) * plane + cell] = float(index[k]);
    }
  }
  return map;
}

}  // namespace dm2::example::shapes
