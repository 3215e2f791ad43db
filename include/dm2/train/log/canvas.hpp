/// @file
/// Antialiased lines on a picture.
#pragma once

#include <dm2/data/picture.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace dm2::detail {

/// A place in pixels from the top left corner; the middle of the first pixel is at (0.5, 0.5).
struct point {
  double x = 0, y = 0;
};

/// A part of the plane in pixels.
struct box {
  double left = 0, top = 0, right = 0, bottom = 0;
  [[nodiscard]] double width() const noexcept { return right - left; }
  [[nodiscard]] double height() const noexcept { return bottom - top; }
};

/// A colour, and how far it covers the canvas.
struct ink {
  std::uint8_t red = 0, green = 0, blue = 0;
  double cover = 1;
};

/// How far p is from the line between a and b.
[[nodiscard]] inline double distance(point p, point a, point b) noexcept {
  double const dx = b.x - a.x, dy = b.y - a.y, square = dx * dx + dy * dy;
  double const t = square > 0 ? std::clamp(((p.x - a.x) * dx + (p.y - a.y) * dy) / square, 0.0, 1.0) : 0.0;
  return std::hypot(p.x - a.x - t * dx, p.y - a.y - t * dy);
}

/// A picture that is drawn on. Nothing is drawn outside of the picture or of the clip box; coordinates are finite.
class canvas {
 public:
  canvas(int height, int width, ink paper) : out_{height, width}, clip_{whole()} { fill(clip_, paper); }

  /// The picture drawn.
  [[nodiscard]] picture const& drawn() const noexcept { return out_; }

  /// The whole picture.
  [[nodiscard]] box whole() const noexcept { return {0, 0, double(out_.width), double(out_.height)}; }

  /// Draws inside of b only from now on.
  void clip(box b) noexcept { clip_ = common(b, whole()); }

  /// Fills a box; a pixel that is partly in it is partly covered.
  void fill(box b, ink colour) {
    b = common(b, clip_);
    for (int y = int(b.top); y < std::ceil(b.bottom); ++y) {
      double const rows = std::min(b.bottom, y + 1.0) - std::max(b.top, double(y));
      for (int x = int(b.left); x < std::ceil(b.right); ++x)
        blend(x, y, rows * (std::min(b.right, x + 1.0) - std::max(b.left, double(x))), colour);
    }
  }

  /// A line through the points with round ends and corners. Where it crosses itself it covers no more than elsewhere.
  void stroke(std::span<point const> path, double width, ink colour) {
    if (path.empty()) return;
    box around{path[0].x, path[0].y, path[0].x, path[0].y};
    for (point const p : path)
      around = {std::min(around.left, p.x), std::min(around.top, p.y), std::max(around.right, p.x),
                std::max(around.bottom, p.y)};
    coverage cover{pixels_near(around, width / 2 + 1), {}};
    if (cover.bounds.width() <= 0 || cover.bounds.height() <= 0) return;
    cover.value.resize(std::size_t(cover.bounds.width() * cover.bounds.height()));
    for (std::size_t i = 0; i < path.size(); ++i) cover_segment(cover, path[i == 0 ? 0 : i - 1], path[i], width / 2);
    std::size_t at = 0;
    for (int y = int(cover.bounds.top); y < cover.bounds.bottom; ++y)
      for (int x = int(cover.bounds.left); x < cover.bounds.right; ++x) blend(x, y, double(cover.value[at++]), colour);
  }

 private:
  /// How much of each pixel of `bounds`, whose sides are whole numbers, a line covers.
  struct coverage {
    box bounds;
    std::vector<float> value;
  };

  [[nodiscard]] static box common(box a, box b) noexcept {
    return {std::max(a.left, b.left), std::max(a.top, b.top), std::min(a.right, b.right), std::min(a.bottom, b.bottom)};
  }

  /// The pixels of the clip box that are within `margin` of b.
  [[nodiscard]] box pixels_near(box b, double margin) const noexcept {
    b = common({b.left - margin, b.top - margin, b.right + margin, b.bottom + margin}, clip_);
    return {std::floor(b.left), std::floor(b.top), std::ceil(b.right), std::ceil(b.bottom)};
  }

  void cover_segment(coverage& to, point a, point b, double radius) const {
    box const around = common(
        pixels_near({std::min(a.x, b.x), std::min(a.y, b.y), std::max(a.x, b.x), std::max(a.y, b.y)}, radius + 1),
        to.bounds);
    for (int y = int(around.top); y < around.bottom; ++y)
      for (int x = int(around.left); x < around.right; ++x) {
        double const part =
            std::clamp(radius + 0.5 - distance({x + 0.5, y + 0.5}, a, b), 0.0, std::min(1.0, 2 * radius));
        float& value = to.value[std::size_t((y - to.bounds.top) * to.bounds.width() + (x - to.bounds.left))];
        value = std::max(value, float(part));
      }
  }

  void blend(int x, int y, double part, ink colour) noexcept {
    std::uint8_t* const at = out_.row(y) + 3 * x;
    double const cover = std::clamp(part, 0.0, 1.0) * colour.cover;
    auto const mix = [cover](std::uint8_t below, std::uint8_t above) {
      return static_cast<std::uint8_t>(below + cover * (above - below) + 0.5);
    };
    at[0] = mix(at[0], colour.red);
    at[1] = mix(at[1], colour.green);
    at[2] = mix(at[2], colour.blue);
  }

  picture out_;
  box clip_;
};

}  // namespace dm2::detail
