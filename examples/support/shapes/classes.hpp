/// @file
/// The classes of the drawn picture set: an outline, and what fills it.
#pragma once

#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "geometry.hpp"

namespace dm2::example::shapes {

/// How a shape is filled, with one colour or two.
enum class filling : unsigned char {
  plain,    ///< the first colour
  checks,   ///< squares in turn
  stripes,  ///< bands in turn
  halves    ///< one colour on either side of a diameter
};

/// A class of pictures.
struct shape_class {
  char const* name;
  double (*outline)(point);  ///< distance, in the shape's own coordinates
  filling fill = filling::plain;
};

namespace detail {

inline double full_disc(point p) { return disc(p, 1); }
inline double full_square(point p) { return box(p, 0.85, 0.85); }

}  // namespace detail

/// The classes in the order of their numbers, which is the alphabet's: that of the folders of a set. Disc and square
/// come with four fillings each, so that neither outline nor filling alone tells the class.
inline constexpr std::array<shape_class, 14> classes{{
    {"checkered_disc", detail::full_disc, filling::checks},
    {"checkered_square", detail::full_square, filling::checks},
    {"crescent",
     [](point p) {
       return crescent({p.x + 0.2, p.y}, 1, 0.8, 0.5);
     }},
    {"cross", [](point p) { return cross(p, 1, 0.33); }},
    {"disc", detail::full_disc},
    {"halved_disc", detail::full_disc, filling::halves},
    {"halved_square", detail::full_square, filling::halves},
    {"ring", [](point p) { return ring(p, 0.55, 1); }},
    {"spiral", [](point p) { return spiral(p, 2.25, 0.12); }},
    {"square", detail::full_square},
    {"star", [](point p) { return star(p, 0.5, 1.15); }},
    {"striped_disc", detail::full_disc, filling::stripes},
    {"striped_square", detail::full_square, filling::stripes},
    {"triangle", [](point p) { return triangle(p, 1.15); }},
}};

/// Their names, in the order of their numbers.
[[nodiscard]] inline std::vector<std::string> class_names() {
  std::vector<std::string> names;
  for (shape_class const& c : classes) names.emplace_back(c.name);
  return names;
}

/// Whether a filling has its second colour at a point of the shape.
[[nodiscard]] inline bool second_colour(filling fill, point p) {
  auto const odd = [](double v, double width) { return (int(std::floor(v / width + 0.5)) & 1) != 0; };
  constexpr double fifth = 0.34;  // of the square's side
  switch (fill) {
    case filling::checks:
      return odd(p.x, fifth) != odd(p.y, fifth);
    case filling::stripes:
      return odd(p.x, fifth);
    case filling::halves:
      return p.x > 0;
    case filling::plain:
      break;
  }
  return false;
}

}  // namespace dm2::example::shapes
