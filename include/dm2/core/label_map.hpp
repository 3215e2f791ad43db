/// @file
/// Label maps of a teacher's scores, and the part a crop means.
#pragma once

#include <dm2/core/compiler.hpp>

#include <cstddef>
#include <span>

namespace dm2 {

/// A random crop: its corner and size as fractions of the picture that it was cut from.
struct crop_fraction {
  double top = 0;     ///< rows above the crop, over the picture's height
  double left = 0;    ///< columns left of the crop, over the picture's width
  double height = 1;  ///< the crop's height over the picture's
  double width = 1;   ///< the crop's width over the picture's
};

/// Which cut of the label map a crop of the picture means.
enum class crop_convention : unsigned char {
  published,  ///< as in the published code: (top, left) goes where RoIAlign takes x first, so the cut is transposed,
              ///< and both axes are scaled by the map's width
  aligned     ///< where the picture was cut
};

/// A label map: for each cell the teacher's five highest scores, and the classes that have them.
template <class T>
struct label_map {
  static constexpr int top = 5;  ///< scores a cell
  std::span<T const> data;       ///< scores (not softmaxed), then class indices: [2, 5, height, width]
  int height;                    ///< rows of cells
  int width;                     ///< cells a row

  /// The k-th of the five scores, 0 <= k < 5, of cell row * width + column. Neither is checked.
  [[nodiscard]] T score(int k, int cell) const { return data[at(k, cell)]; }
  /// The class, a whole number, that the score (k, cell) belongs to.
  [[nodiscard]] T index(int k, int cell) const { return data[at(top + k, cell)]; }

 private:
  [[nodiscard]] std::size_t at(int plane, int cell) const {
    return std::size_t(plane) * std::size_t(height) * std::size_t(width) + std::size_t(cell);
  }
};

}  // namespace dm2
