/// @file
/// Colours, and random ones that can be told apart.
#pragma once

#include <dm2/core/random.hpp>

#include <algorithm>
#include <cmath>

namespace dm2::example::shapes {

/// A colour, each part from 0 to 1.
struct colour {
  double red = 0, green = 0, blue = 0;

  friend colour operator+(colour a, colour b) { return {a.red + b.red, a.green + b.green, a.blue + b.blue}; }
  friend colour operator*(colour a, double s) { return {a.red * s, a.green * s, a.blue * s}; }
};

/// a where part is 0, b where it is 1.
[[nodiscard]] inline colour between(colour a, colour b, double part) { return a * (1 - part) + b * part; }

/// How far two colours are apart, with the weights that the eye gives the primaries; black and white: 1.
[[nodiscard]] inline double contrast(colour a, colour b) {
  double const r = a.red - b.red, g = a.green - b.green, l = a.blue - b.blue;
  return std::sqrt(0.3 * r * r + 0.59 * g * g + 0.11 * l * l);
}

[[nodiscard]] inline colour random_colour(random_stream& random) {
  double const red = random.uniform(), green = random.uniform();
  return {red, green, random.uniform()};
}

/// A random colour that differs by `least` from all the others; the most different of 64 where none does.
template <class... Others>
[[nodiscard]] colour distinct_colour(random_stream& random, double least, Others... others) {
  colour best{};
  double most = -1;
  for (int attempt = 0; attempt < 64 && most < least; ++attempt) {
    colour const c = random_colour(random);
    double nearest = 2;
    ((nearest = std::min(nearest, contrast(c, others))), ...);
    if (nearest > most) {
      most = nearest;
      best = c;
    }
  }
  return best;
}

}  // namespace dm2::example::shapes
