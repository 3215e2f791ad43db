/// @file
/// A picture with a mark, and a label map with a mark at the same place.
#pragma once

#include <dm2/data/label_map_file.hpp>
#include <dm2/data/picture.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace dm2::test {

/// A place, as fractions of the height and width.
struct position {
  double y, x;
};

/// The centre of the weight; weight(y, x) is the weight of one cell.
template <class W>
position centre_of(int height, int width, W weight) {
  double sum = 0, y_sum = 0, x_sum = 0;
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) {
      double const w = weight(y, x);
      sum += w;
      y_sum += w * (y + 0.5);
      x_sum += w * (x + 0.5);
    }
  REQUIRE(sum > 0);
  return {y_sum / sum / height, x_sum / sum / width};
}

/// Black but for a white square of 4 x 4 cells, and score 1 of class 3 there.
struct marked {
  picture image;
  label_map_data map;

  [[nodiscard]] position in_image() const {
    return centre_of(image.height, image.width, [&](int y, int x) { return double(image.row(y)[3 * x]); });
  }
  [[nodiscard]] position in_map() const {
    return centre_of(map.height, map.width,
                     [&](int y, int x) { return double(map.values[std::size_t(y * map.width + x)]); });
  }
};

/// The mark begins at that cell of 18 x 18; a cell is 12 x 12 pixels.
inline marked make_marked(int row, int column) {
  marked m{picture{18 * 12, 18 * 12}, {18, 18, std::vector<float>(10 * 18 * 18)}};
  for (int y = row; y < row + 4; ++y)
    for (int x = column; x < column + 4; ++x) {
      std::size_t const cell = std::size_t(18 * y + x);
      m.map.values[cell] = 1;
      m.map.values[5 * 324 + cell] = 3;
    }
  for (int y = 12 * row; y < 12 * (row + 4); ++y) std::fill_n(m.image.row(y) + 36 * column, 36 * 4, std::uint8_t{255});
  return m;
}

}  // namespace dm2::test
