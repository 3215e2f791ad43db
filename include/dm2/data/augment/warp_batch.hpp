/// @file
/// Interpolation between a picture's pixels, a few pixels at a time.
#pragma once

#include <dm2/core/host_device.hpp>
#include <dm2/data/resample_weights.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace dm2::detail {

/// Keeps a product's own rounding. A compiler may fuse a product with the sum that it goes into, and then one value in
/// many thousands falls on the other side of a whole number than the reference's. An exclusive or with zero that it
/// cannot know to be zero prevents that and, unlike a trip through memory, stays in vectors.
class own_rounding {
 public:
  own_rounding() noexcept {
    std::uint64_t const volatile nothing = 0;
    zero_ = nothing;
  }
  /// x * y.
  [[nodiscard]] double operator()(double x, double y) const noexcept {
    return std::bit_cast<double>(std::bit_cast<std::uint64_t>(x * y) ^ zero_);
  }

 private:
  std::uint64_t zero_;
};

/// Filter through points at -1, 0, 1 and 2, at part t between the second and the third; bilinear takes those two only.
/// r multiplies with a rounding of its own.
#ifdef __CUDACC__
#pragma nv_exec_check_disable  // the host's r for the host, the device's for the device
#endif
template <resize_filter Filter, class Product>
[[nodiscard]] DM2_HOST_DEVICE double interpolate(double a, double b, double c, double d, double t, Product r) noexcept {
  if constexpr (Filter == resize_filter::bilinear) return b + r(c - b, t);
  double const slope = c - a, square = 2 * (a - b) + c - d, cube = b - a - c + d;  // Keys' cubic with a = -1
  return b + r(t, slope + r(t, square + r(t, cube)));
}

/// A coordinate less half a pixel: the pixel whose centre is at or before it, and the part of the way to the next.
struct between {
  int first;
  double part;

  DM2_HOST_DEVICE explicit between(double v) noexcept {
    v -= 0.5;
    first = v < 0 ? -1 : static_cast<int>(v);  // v >= -1/2
    part = v - first;
  }
};

/// A picture's bytes; one more is readable after the last pixel. Outside, the nearest pixel inside counts.
struct warp_source {
  std::uint8_t const* pixels;
  int height, width;

  /// The offset of column i in its row.
  [[nodiscard]] std::size_t column(int i) const noexcept {
    return 3 * static_cast<std::size_t>(std::clamp(i, 0, width - 1));
  }
  /// The first byte of row i.
  [[nodiscard]] std::uint8_t const* row(int i) const noexcept {
    return pixels + 3 * static_cast<std::size_t>(width) * static_cast<std::size_t>(std::clamp(i, 0, height - 1));
  }
};

/// A few neighbouring output pixels: what each is made of is gathered one pixel at a time, and then all are computed in
/// one loop over plain arrays, which compilers turn into vectors. A pixel has four lanes, of which three count, because
/// four bytes are one load.
template <resize_filter Filter>
class warp_batch {
 public:
  static constexpr std::size_t size = 32;  ///< pixels

  /// Pixel k is the source at (x, y), which lies inside.
  void gather(std::size_t k, warp_source const& p, double x, double y) noexcept {
    between const across{x}, down{y};
    std::array<std::size_t, taps> column;
    for (std::size_t i = 0; i < taps; ++i) column[i] = p.column(across.first + static_cast<int>(i) + before);
    for (std::size_t j = 0; j < taps; ++j) {
      std::uint8_t const* const row = p.row(down.first + static_cast<int>(j) + before);
      for (std::size_t i = 0; i < taps; ++i) std::memcpy(level_[j][i].data() + 4 * k, row + column[i], 4);
    }
    for (std::size_t c = 4 * k; c < 4 * k + 4; ++c) {
      across_[c] = across.part;
      down_[c] = down.part;
    }
  }

  /// Computes all pixels: a loop of known length takes less time than the few pixels that it computes for nothing.
  void compute(own_rounding r) noexcept {
    for (std::size_t j = 0; j < taps; ++j) {
      auto const& v = level_[j];
      for (std::size_t c = 0; c < 4 * size; ++c)
        row_[j][c] = interpolate<Filter>(v[0][c], v[second][c], v[third][c], v[taps - 1][c], across_[c], r);
    }
    for (std::size_t c = 0; c < 4 * size; ++c) {
      double const v = interpolate<Filter>(row_[0][c], row_[second][c], row_[third][c], row_[taps - 1][c], down_[c], r);
      result_[c] = static_cast<std::int32_t>(std::min(255.0, std::max(0.0, v)));
    }
  }

  /// Writes the first n pixels.
  void store(std::size_t n, std::uint8_t* out) const noexcept {
    for (std::size_t k = 0; k < n; ++k)
      for (std::size_t c = 0; c < 3; ++c) out[3 * k + c] = static_cast<std::uint8_t>(result_[4 * k + c]);
  }

 private:
  static constexpr std::size_t taps = Filter == resize_filter::bilinear ? 2 : 4;
  static constexpr std::size_t second = taps / 2 - 1, third = taps / 2;
  static constexpr int before = Filter == resize_filter::bilinear ? 0 : -1;

  template <class T>
  using values = std::array<T, 4 * size>;
  std::array<std::array<values<std::uint8_t>, taps>, taps> level_{};
  values<double> across_{}, down_{};
  std::array<values<double>, taps> row_{};
  values<std::int32_t> result_{};
};

}  // namespace dm2::detail
