/// @file
/// A decoded picture: 8-bit RGB.
#pragma once

#include <dm2/core/error.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace dm2 {

/// 8-bit RGB, rows from top to bottom, channels interleaved: pixels [height, width, 3]. A value type.
///
/// Invariant  pixels.size() == 3 * height * width; functions that take a picture check it (require_picture).
struct picture {
  int height = 0;                    ///< rows
  int width = 0;                     ///< columns
  std::vector<std::uint8_t> pixels;  ///< [height, width, 3]

  picture() = default;

  /// A black picture. Throws shape_error if a side is negative.
  picture(int rows, int columns) : height{rows}, width{columns} {
    if (rows < 0 || columns < 0)
      throw shape_error{"picture: height " + std::to_string(rows) + " and width " + std::to_string(columns) +
                        " must not be negative"};
    pixels.resize(static_cast<std::size_t>(rows) * stride());
  }

  /// Bytes from one row to the next, 3 * width.
  [[nodiscard]] std::size_t stride() const noexcept { return 3 * static_cast<std::size_t>(width); }

  /// First byte of row y; y is not checked.
  [[nodiscard]] std::uint8_t* row(int y) noexcept { return pixels.data() + static_cast<std::size_t>(y) * stride(); }
  /// @copydoc row(int)
  [[nodiscard]] std::uint8_t const* row(int y) const noexcept {
    return pixels.data() + static_cast<std::size_t>(y) * stride();
  }

  /// Equal sizes and equal bytes.
  friend bool operator==(picture const&, picture const&) = default;
};

/// A rectangle of pixels; top and left count from the picture's upper left corner.
struct pixel_box {
  int top = 0;     ///< its first row
  int left = 0;    ///< its first column
  int height = 0;  ///< rows
  int width = 0;   ///< columns
};

/// Throws shape_error naming `what` unless p has at least one pixel and as many bytes as its sides say.
inline void require_picture(char const* what, picture const& p) {
  if (p.height < 1 || p.width < 1)
    throw shape_error{std::string{what} + ": a picture of " + std::to_string(p.height) + " x " +
                      std::to_string(p.width) + " has no pixel"};
  require_extent(what, p.pixels.size(), static_cast<std::size_t>(p.height) * p.stride());
}

}  // namespace dm2
