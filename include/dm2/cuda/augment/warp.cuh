/// @file
/// A pixel of an affine warp, as Pillow's Image.transform.
#pragma once

#include <dm2/cuda/augment/records.cuh>
#include <dm2/data/augment/warp_batch.hpp>

#include <cstdint>

namespace dm2::cuda::detail {

/// Multiplies with a rounding of its own.
struct product {
  [[nodiscard]] __device__ double operator()(double x, double y) const { return dm2::detail::rounded_product(x, y); }
};

/// A point between a picture's pixels.
struct sample_point {
  dm2::detail::between across, down;
};

/// The three levels at a point, which lies inside a picture of height x width; what is outside is the nearest inside.
template <resize_filter Filter>
__device__ void sample_warp(pixel_view const& from, int height, int width, sample_point const& p, std::uint8_t* out) {
  constexpr int taps = Filter == resize_filter::bilinear ? 2 : 4, before = Filter == resize_filter::bilinear ? 0 : -1;
  constexpr int second = taps / 2 - 1, third = taps / 2;
  double row[3][taps];
#pragma unroll
  for (int j = 0; j < taps; ++j) {
    int const y = dm2::detail::within(p.down.first + j + before, 0, height - 1);
    double level[3][taps];
#pragma unroll
    for (int i = 0; i < taps; ++i) {
      std::uint8_t const* const v = from.at(y, dm2::detail::within(p.across.first + i + before, 0, width - 1));
#pragma unroll
      for (int c = 0; c < 3; ++c) level[c][i] = double(v[c]);
    }
#pragma unroll
    for (int c = 0; c < 3; ++c)
      row[c][j] = dm2::detail::interpolate<Filter>(level[c][0], level[c][second], level[c][third], level[c][taps - 1],
                                                   p.across.part, product{});
  }
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    double const v = dm2::detail::interpolate<Filter>(row[c][0], row[c][second], row[c][third], row[c][taps - 1],
                                                      p.down.part, product{});
    out[c] = std::uint8_t(int(dm2::detail::least(255.0, dm2::detail::greatest(0.0, v))));
  }
}

/// Pixel (y, x) of a warped picture of height x width.
__device__ inline void warp_pixel(pixel_view const& from, picture_step const& step, int height, int width, int y, int x,
                                  std::uint8_t* out) {
  product const times;
  affine_map const& m = step.map;
  double const from_x = times(m.xx, x + 0.5) + times(m.xy, y + 0.5) + m.x0;
  double const from_y = times(m.yx, x + 0.5) + times(m.yy, y + 0.5) + m.y0;
  if (!(from_x >= 0 && from_x < width && from_y >= 0 && from_y < height)) {
    for (int c = 0; c < 3; ++c) out[c] = step.fill[c];
    return;
  }
  sample_point const p{dm2::detail::between{from_x}, dm2::detail::between{from_y}};
  if (step.filter == resize_filter::bilinear)
    sample_warp<resize_filter::bilinear>(from, height, width, p, out);
  else
    sample_warp<resize_filter::bicubic>(from, height, width, p, out);
}

}  // namespace dm2::cuda::detail
