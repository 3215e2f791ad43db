/// @file
/// From a scene to pixels, and to where the object is.
#pragma once

#include <dm2/core/random.hpp>
#include <dm2/data/picture.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "scene.hpp"

namespace dm2::example::shapes {

/// A labelled picture. The object's cover is what is seen of it, without what stands before it.
struct drawing {
  int label = 0;
  picture image{};
  std::vector<float> cover{};  ///< [height, width]: part of each pixel that is the object, 0..1
};

namespace detail {

/// Points of a pixel that are looked at: the rotated grid of four, which no edge crosses two at a time along an axis.
inline constexpr std::array<point, 4> samples{{{0.375, 0.125}, {0.875, 0.375}, {0.125, 0.625}, {0.625, 0.875}}};

[[nodiscard]] inline colour background_colour(background const& b, point p) {
  double const along = (p.x - 0.5) * b.direction.x + (p.y - 0.5) * b.direction.y;
  double const shade = b.swing * std::sin(b.wave.x * p.x + b.wave.y * p.y + b.phase);
  return between(b.from, b.to, std::clamp(along + 0.5, 0.0, 1.0)) + colour{shade, shade, shade};
}

/// The layer that is seen at p; null where it is the background.
[[nodiscard]] inline layer const* layer_at(scene const& s, point p, point& local) {
  for (std::size_t i = s.layers.size(); i-- > 0;) {
    layer const& l = s.layers[i];
    point const d = p - l.place.centre;
    double const reach = 1.5 * l.place.radius;  // no outline has points further out
    if (d.x * d.x + d.y * d.y > reach * reach) continue;
    local = l.place.local(p);
    if (l.outline(local) < 0) return &l;
  }
  return nullptr;
}

}  // namespace detail

/// Draws a scene in size x size pixels, with four samples a pixel and noise from `random`.
[[nodiscard]] inline drawing draw(scene const& s, int size, random_stream& random) {
  drawing d{s.label, picture{size, size}, std::vector<float>(std::size_t(size) * std::size_t(size))};
  auto const byte = [&](double v) {
    return std::uint8_t(std::lround(255 * std::clamp(v + s.noise * random.normal(), 0.0, 1.0)));
  };
  double const share = 1.0 / double(detail::samples.size());
  for (int y = 0; y < size; ++y)
    for (int x = 0; x < size; ++x) {
      colour sum{};
      int covered = 0;
      for (point const offset : detail::samples) {
        point const p{(x + offset.x) / size, (y + offset.y) / size};
        point local{};
        layer const* const seen = detail::layer_at(s, p, local);
        covered += seen != nullptr && seen->is_object ? 1 : 0;
        sum = sum + (seen == nullptr                    ? detail::background_colour(s.behind, p)
                     : second_colour(seen->fill, local) ? seen->second
                                                        : seen->first);
      }
      std::uint8_t* const pixel = d.image.row(y) + 3 * x;
      pixel[0] = byte(sum.red * share);
      pixel[1] = byte(sum.green * share);
      pixel[2] = byte(sum.blue * share);
      d.cover[std::size_t(y) * std::size_t(size) + std::size_t(x)] = float(covered * share);
    }
  return d;
}

/// Which part of a set a picture belongs to; no picture is in both.
enum class part : std::uint32_t { training, validation };

/// Picture `index` of a part: a function of the arguments alone. Classes take turns.
[[nodiscard]] inline drawing draw_sample(std::uint64_t seed, part of, std::size_t index, int size) {
  random_stream random{seed, std::uint32_t(of), index};
  return draw(random_scene(int(index % classes.size()), random), size, random);
}

}  // namespace dm2::example::shapes
