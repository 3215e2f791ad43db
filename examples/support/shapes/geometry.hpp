/// @file
/// Plane shapes by their distance functions: negative inside, positive outside, 0 on the outline.
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>

namespace dm2::example::shapes {

/// A point of the plane; x to the right, y down.
struct point {
  double x = 0, y = 0;

  friend point operator-(point a, point b) { return {a.x - b.x, a.y - b.y}; }
  friend point operator*(point a, double s) { return {a.x * s, a.y * s}; }
};

[[nodiscard]] inline double length(point p) { return std::sqrt(p.x * p.x + p.y * p.y); }

/// Where a shape stands: from the picture's points to the shape's own, in which it fits the unit circle, roughly.
struct placement {
  point centre{};
  double radius = 1, cosine = 1, sine = 0;

  placement() = default;
  placement(point at, double size, double angle)
      : centre{at}, radius{size}, cosine{std::cos(angle)}, sine{std::sin(angle)} {}

  [[nodiscard]] point local(point p) const {
    point const d = (p - centre) * (1 / radius);
    return {cosine * d.x + sine * d.y, cosine * d.y - sine * d.x};
  }
};

[[nodiscard]] inline double disc(point p, double radius) { return length(p) - radius; }

[[nodiscard]] inline double ring(point p, double inner, double outer) {
  return std::abs(length(p) - (inner + outer) / 2) - (outer - inner) / 2;
}

/// A rectangle, by half its sides.
[[nodiscard]] inline double box(point p, double half_width, double half_height) {
  double const x = std::abs(p.x) - half_width, y = std::abs(p.y) - half_height;
  return length({std::max(x, 0.0), std::max(y, 0.0)}) + std::min(std::max(x, y), 0.0);
}

/// A bar of round ends along x.
[[nodiscard]] inline double bar(point p, double half_length, double half_width) {
  return length({p.x - std::clamp(p.x, -half_length, half_length), p.y}) - half_width;
}

[[nodiscard]] inline double cross(point p, double reach, double half_width) {
  return std::min(box(p, reach, half_width), box(p, half_width, reach));
}

/// An equilateral triangle in a circle of that radius. Outside its corners the distance is a lower bound.
[[nodiscard]] inline double triangle(point p, double radius) {
  double const slope = std::numbers::sqrt3 / 2;
  return std::max({p.y, slope * p.x - p.y / 2, -slope * p.x - p.y / 2}) - radius / 2;
}

/// A disc without the part that another disc covers.
[[nodiscard]] inline double crescent(point p, double radius, double bite, double offset) {
  return std::max(disc(p, radius), -disc({p.x - offset, p.y}, bite));
}

/// A star of five points between two circles. Distances are to the lines through its edges.
[[nodiscard]] inline double star(point p, double inner, double outer) {
  double const sector = std::numbers::pi / 5;
  double angle = std::fmod(std::atan2(p.x, -p.y) + 10 * sector, 2 * sector);  // from the point above, 0..2 sectors
  angle = std::min(angle, 2 * sector - angle);
  double const r = length(p);
  point const a{outer, 0}, b{inner * std::cos(sector), inner * std::sin(sector)}, edge = b - a;
  point const from = point{r * std::cos(angle), r * std::sin(angle)} - a;
  return (edge.x * from.y - edge.y * from.x) / -length(edge);
}

/// An arm of constant width that winds outwards, `turns` times to radius 1. Beside the arm's two ends the distance is
/// that to its turns.
[[nodiscard]] inline double spiral(point p, double turns, double half_width) {
  double const pitch = 1 / turns, r = length(p);
  double const part = std::atan2(p.y, p.x) / (2 * std::numbers::pi);
  double const turn = std::clamp(std::round(r / pitch - part), part < 0 ? 1.0 : 0.0, std::floor(turns - part));
  return std::abs(r - (turn + part) * pitch) - half_width;
}

}  // namespace dm2::example::shapes
