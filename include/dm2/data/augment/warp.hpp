/// @file
/// Affine warps of a picture, as Pillow's Image.transform.
#pragma once

#include <dm2/data/augment/warp_batch.hpp>
#include <dm2/data/picture.hpp>
#include <dm2/data/resample_weights.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace dm2 {

/// Red, green and blue.
using colour = std::array<std::uint8_t, 3>;

/// ImageNet's mean colour, rounded: shown by warps beyond the picture's edge.
inline constexpr colour imagenet_colour{124, 116, 104};

/// Where a warp's pixel comes from: output (x, y) shows input (xx x + xy y + x0, yx x + yy y + y0), both measured in
/// pixels from the picture's upper left corner, so that a pixel's centre is at a half.
struct affine_map {
  double xx = 1;  ///< input columns an output column
  double xy = 0;  ///< input columns an output row
  double x0 = 0;  ///< the input's x, in pixels, where the output's x and y are 0
  double yx = 0;  ///< input rows an output column
  double yy = 1;  ///< input rows an output row
  double y0 = 0;  ///< the input's y, in pixels, where the output's x and y are 0
};

namespace detail {

/// The coordinates that a row of outputs comes from.
struct warp_line {
  double const *across_x, *across_y;  ///< xx x and yx x of every column
  double down_x, down_y, x0, y0;

  [[nodiscard]] double x(std::size_t i) const noexcept { return across_x[i] + down_x + x0; }
  [[nodiscard]] double y(std::size_t i) const noexcept { return across_y[i] + down_y + y0; }
  [[nodiscard]] bool inside(std::size_t i, warp_source const& p) const noexcept {
    return x(i) >= 0 && x(i) < p.width && y(i) >= 0 && y(i) < p.height;
  }
};

/// One row. The pixels inside the picture are one stretch, since each coordinate ascends or descends along the row.
template <resize_filter Filter>
void warp_row(warp_source const& p, warp_line const& line, colour const& fill, warp_batch<Filter>& batch,
              own_rounding r, std::uint8_t* out) noexcept {
  auto const width = static_cast<std::size_t>(p.width);
  std::size_t begin = 0;
  while (begin < width && !line.inside(begin, p)) ++begin;
  std::size_t end = begin;
  while (end < width && line.inside(end, p)) ++end;
  for (std::size_t x = 0; x < begin; ++x) std::copy_n(fill.data(), 3, out + 3 * x);
  for (std::size_t x = end; x < width; ++x) std::copy_n(fill.data(), 3, out + 3 * x);
  for (std::size_t x = begin; x < end; x += batch.size) {
    std::size_t const n = std::min(batch.size, end - x);
    for (std::size_t k = 0; k < n; ++k) batch.gather(k, p, line.x(x + k), line.y(x + k));
    batch.compute(r);
    batch.store(n, out + 3 * x);
  }
}

/// Fills `to` from p.
template <resize_filter Filter>
void warp_rows(warp_source const& p, affine_map const& m, colour const& fill, picture& to) {
  auto const width = static_cast<std::size_t>(p.width);
  std::vector<double> across_x(width), across_y(width);  // in memory, where products have their own rounding
  for (std::size_t x = 0; x < width; ++x) {
    across_x[x] = m.xx * (static_cast<double>(x) + 0.5);
    across_y[x] = m.yx * (static_cast<double>(x) + 0.5);
  }
  own_rounding const r;
  warp_batch<Filter> batch;
  for (int y = 0; y < p.height; ++y)
    warp_row<Filter>(
        p,
        {across_x.data(), across_y.data(), rounded_product(m.xy, y + 0.5), rounded_product(m.yy, y + 0.5), m.x0, m.y0},
        fill, batch, r, to.row(y));
}

}  // namespace detail

/// Warps p in place: Pillow's p.transform(p.size, AFFINE, map, filter, fillcolor=fill), to the last bit of a double
/// before a value is truncated. A pixel whose centre comes from outside the picture is filled.
///
/// The bicubic filter is a sharper one (a = -1) than that of resizing; that is Pillow's doing.
/// Throws shape_error if p has no pixel.
inline void warp(picture& p, affine_map const& map, resize_filter filter, colour const& fill = imagenet_colour) {
  require_picture("warp", p);
  picture to{p.height, p.width};
  p.pixels.push_back(0);  // pixels are read four bytes at a time
  detail::warp_source const from{p.pixels.data(), p.height, p.width};
  if (filter == resize_filter::bilinear)
    detail::warp_rows<resize_filter::bilinear>(from, map, fill, to);
  else
    detail::warp_rows<resize_filter::bicubic>(from, map, fill, to);
  p = std::move(to);
}

}  // namespace dm2
