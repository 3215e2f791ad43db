/// @file
/// Augmentations by a table of levels, byte for byte as Pillow's.
#pragma once

#include <dm2/core/host_device.hpp>
#include <dm2/data/picture.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

namespace dm2 {
namespace detail {

/// The new level of each level.
using level_table = std::array<std::uint8_t, 256>;

/// How many pixels have each level of one channel.
using histogram = std::array<std::size_t, 256>;

/// A table from a function of the level.
template <class F>
[[nodiscard]] level_table make_table(F level) {
  level_table t;
  for (int v = 0; v < 256; ++v) t[static_cast<std::size_t>(v)] = static_cast<std::uint8_t>(level(v));
  return t;
}

/// Replaces every level, each channel by its own table.
inline void look_up(picture& p, std::array<level_table, 3> const& tables) noexcept {
  for (std::size_t i = 0; i < p.pixels.size(); i += 3)
    for (std::size_t c = 0; c < 3; ++c) p.pixels[i + c] = tables[c][p.pixels[i + c]];
}

/// Replaces every level, all channels by the same table.
inline void look_up(picture& p, level_table const& table) noexcept {
  for (std::uint8_t& v : p.pixels) v = table[v];
}

/// The histogram of each channel.
[[nodiscard]] inline std::array<histogram, 3> channel_histograms(picture const& p) noexcept {
  std::array<histogram, 3> h{};
  for (std::size_t i = 0; i < p.pixels.size(); i += 3)
    for (std::size_t c = 0; c < 3; ++c) ++h[c][p.pixels[i + c]];
  return h;
}

/// Stretches the levels low..high to 0..255; high is above low.
struct level_stretch {
  double scale, offset;

  DM2_HOST_DEVICE level_stretch(int low, int high) noexcept
      : scale{255.0 / (high - low)}, offset{rounded_product(-low, scale)} {}
  /// The new level of v.
  [[nodiscard]] DM2_HOST_DEVICE int operator()(int v) const noexcept {
    return within(static_cast<int>(rounded_product(v, scale) + offset), 0, 255);
  }
};

/// The new level of v where the levels from `threshold` on are inverted.
[[nodiscard]] DM2_HOST_DEVICE constexpr int solarized(int v, int threshold) noexcept {
  return v < threshold ? v : 255 - v;
}

/// The new level of v where `add` is added to the levels below 128.
[[nodiscard]] DM2_HOST_DEVICE constexpr int solarized_by(int v, int add) noexcept {
  return v < 128 ? within(v + within(add, -255, 255), 0, 255) : v;
}

/// The bits of a level that are kept: none at 0 and less, all at 8 and more.
[[nodiscard]] DM2_HOST_DEVICE constexpr std::uint8_t kept_bits(int bits) noexcept {
  return static_cast<std::uint8_t>(0xff00u >> within(bits, 0, 8));
}

/// Stretches the levels in use to 0..255; a channel of one level stays.
[[nodiscard]] inline level_table contrast_table(histogram const& h) {
  auto const used = [](std::size_t n) { return n != 0; };
  int const low = static_cast<int>(std::find_if(h.begin(), h.end(), used) - h.begin());
  int const high = 255 - static_cast<int>(std::find_if(h.rbegin(), h.rend(), used) - h.rbegin());
  if (high <= low) return make_table([](int v) { return v; });
  level_stretch const stretched{low, high};
  return make_table(stretched);
}

/// Spreads the pixels evenly over the levels. A channel stays where fewer than 255 pixels have other levels than its
/// highest, or where it has one level only.
[[nodiscard]] inline level_table equal_table(histogram const& h) {
  std::size_t total = 0, highest = 0, levels = 0;
  for (std::size_t const n : h)
    if (n != 0) {
      total += n;
      highest = n;
      ++levels;
    }
  std::size_t const step = (total - highest) / 255;
  if (levels <= 1 || step == 0) return make_table([](int v) { return v; });
  std::size_t sum = step / 2;
  return make_table([&](int v) {
    std::size_t const level = sum / step;
    sum += h[static_cast<std::size_t>(v)];
    return std::min<std::size_t>(level, 255);  // a small step, rounded down, leaves pixels over at the end
  });
}

/// A table for each channel from that channel's histogram.
template <class F>
void look_up_by_histogram(picture& p, F table) {
  std::array<histogram, 3> const h = channel_histograms(p);
  look_up(p, {table(h[0]), table(h[1]), table(h[2])});
}

}  // namespace detail

/// Stretches each channel's levels linearly to 0..255. Throws shape_error if p has no pixel, as all of these do.
inline void auto_contrast(picture& p) {
  require_picture("auto_contrast", p);
  detail::look_up_by_histogram(p, detail::contrast_table);
}

/// Gives each channel a histogram as flat as a function of the level can make it.
inline void equalize(picture& p) {
  require_picture("equalize", p);
  detail::look_up_by_histogram(p, detail::equal_table);
}

/// v becomes 255 - v.
inline void invert(picture& p) {
  require_picture("invert", p);
  for (std::uint8_t& v : p.pixels) v = static_cast<std::uint8_t>(255 - v);
}

/// Keeps the highest `bits` bits of every level: none at 0 and less, all at 8 and more.
inline void posterize(picture& p, int bits) {
  require_picture("posterize", p);
  std::uint8_t const mask = detail::kept_bits(bits);
  for (std::uint8_t& v : p.pixels) v &= mask;
}

/// Inverts the levels from `threshold` on.
inline void solarize(picture& p, int threshold) {
  require_picture("solarize", p);
  detail::look_up(p, detail::make_table([&](int v) { return detail::solarized(v, threshold); }));
}

/// Adds `add`, which may be negative, to the levels below 128, within 0..255.
inline void solarize_add(picture& p, int add) {
  require_picture("solarize_add", p);
  detail::look_up(p, detail::make_table([&](int v) { return detail::solarized_by(v, add); }));
}

}  // namespace dm2
