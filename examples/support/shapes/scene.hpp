/// @file
/// What a picture shows: a background, clutter, and the object that gives it its class.
#pragma once

#include <dm2/core/random.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <vector>

#include "classes.hpp"
#include "colours.hpp"
#include "geometry.hpp"

namespace dm2::example::shapes {

/// A filled shape somewhere in the picture.
struct layer {
  placement place{};
  double (*outline)(point) = nullptr;
  filling fill = filling::plain;
  colour first{}, second{};
  bool is_object = false;
};

/// Where the picture has no layer: a gradient between two colours, waves over it, and noise.
struct background {
  colour from{}, to{};
  point direction{};            ///< of the gradient, over the picture's width
  point wave{};                 ///< radians a width
  double phase = 0, swing = 0;  ///< of the waves
};

/// A picture before it is drawn. Lengths are in widths of the picture.
struct scene {
  int label = 0;
  background behind{};
  std::vector<layer> layers{};  ///< from the back to the front; one is the object
  double noise = 0;             ///< standard deviation, of each part of each pixel
};

namespace detail {

inline double fragment_bar(point p) { return bar(p, 1, 0.16); }
inline double fragment_arc(point p) { return std::max(ring(p, 0.75, 1.0), 0.3 - p.x); }
inline double fragment_corner(point p) { return std::max(box(p, 0.8, 0.8), 0.5 - std::max(p.x, p.y)); }
inline double fragment_blob(point p) { return length({p.x, 1.6 * p.y}) - 1; }

/// Pieces of what the classes are made of.
inline constexpr std::array<double (*)(point), 4> fragments{fragment_bar, fragment_arc, fragment_corner, fragment_blob};

inline double random_angle(random_stream& random) { return random.uniform(0, 2 * std::numbers::pi); }

inline point random_point(random_stream& random, double lo, double hi) {
  double const x = random.uniform(lo, hi);
  return {x, random.uniform(lo, hi)};
}

inline background random_background(random_stream& random) {
  background b;
  b.from = random_colour(random);
  b.to = between(b.from, random_colour(random), 0.5);
  double const turn = random_angle(random), wave = random_angle(random), waves = random.uniform(5, 40);
  b.direction = {std::cos(turn), std::sin(turn)};
  b.wave = {waves * std::cos(wave), waves * std::sin(wave)};
  b.phase = random_angle(random);
  b.swing = random.uniform(0, 0.08);
  return b;
}

/// A small thing of any colour and filling, anywhere.
inline layer random_fragment(random_stream& random, double smallest, double largest) {
  layer l;
  point const at = random_point(random, 0, 1);
  double const size = random.uniform(smallest, largest);
  l.place = {at, size, random_angle(random)};
  l.outline = fragments[random.below(fragments.size())];
  l.fill = random.chance(0.3) ? filling(random.below(4)) : filling::plain;
  l.first = random_colour(random);
  l.second = random_colour(random);
  return l;
}

/// The object, whole in the picture but for its corners. Colours come from the same distribution whatever the class.
inline layer random_object(shape_class const& c, background const& behind, random_stream& random) {
  layer l;
  double const size = random.uniform(0.28, 0.42);
  point const at = random_point(random, 1.05 * size, 1 - 1.05 * size);
  l.place = {at, size, random_angle(random)};
  l.outline = c.outline;
  l.fill = c.fill;
  l.first = distinct_colour(random, 0.3, behind.from, behind.to);
  l.second = distinct_colour(random, 0.3, behind.from, behind.to, l.first);
  l.is_object = true;
  return l;
}

}  // namespace detail

/// A random picture of a class: two to six fragments behind the object, none to two small ones before it.
/// Throws std::out_of_range for a class that there is not.
[[nodiscard]] inline scene random_scene(int label, random_stream& random) {
  shape_class const& c = classes.at(std::size_t(label));
  scene s;
  s.label = label;
  s.behind = detail::random_background(random);
  std::uint32_t const back = 2 + random.below(5), front = random.below(3);
  for (std::uint32_t i = 0; i < back; ++i) s.layers.push_back(detail::random_fragment(random, 0.05, 0.14));
  s.layers.push_back(detail::random_object(c, s.behind, random));
  for (std::uint32_t i = 0; i < front; ++i) s.layers.push_back(detail::random_fragment(random, 0.03, 0.07));
  s.noise = random.uniform(0.01, 0.05);
  return s;
}

}  // namespace dm2::example::shapes
