/// @file
/// Numbers of a file that are not finite, found and named.
#pragma once

#include <dm2/io/tensor.hpp>

#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace dm2 {
namespace detail {

/// "[0, 3, 1]": where the element of that number is, in row-major order.
[[nodiscard]] inline std::string element_place(stored_tensor const& t, std::size_t number) {
  std::vector<std::int64_t> place(t.shape.size());
  for (std::size_t axis = t.shape.size(); axis-- > 0;) {
    auto const extent = static_cast<std::size_t>(t.shape[axis]);
    place[axis] = static_cast<std::int64_t>(number % extent);
    number /= extent;
  }
  return shape_text(place);
}

}  // namespace detail

/// Describes the numbers of a tensor that are not finite when read as T.
///
/// "'head.weight': 2 of 1,344 numbers are not finite, the first nan at [0, 3]". Empty where every number is.
/// A double that is too large for a float is not finite as one.
template <std::floating_point T = float>
[[nodiscard]] std::string not_finite_text(stored_tensor const& t) {
  if (!is_floating(t.type)) return {};
  std::size_t seen = 0, bad = 0, first = 0;
  double value = 0;
  detail::with_loader(t.type, [&](auto load) {
    detail::for_each_row(t, [&](std::byte const* from, std::int64_t step, std::size_t count) {
      for (std::size_t k = 0; k < count; ++k, ++seen) {
        auto const number = load(from + static_cast<std::int64_t>(k) * step);
        if (std::isfinite(static_cast<T>(number)) || bad++ != 0) continue;
        first = seen;
        value = static_cast<double>(number);
      }
    });
  });
  if (bad == 0) return {};
  std::string const what = std::isnan(value)   ? "nan"
                           : std::isinf(value) ? (value < 0 ? "-inf" : "inf")
                                               : std::to_string(value) + ", which is beyond the type's range,";
  return "'" + t.name + "': " + std::to_string(bad) + " of " + std::to_string(seen) +
         (bad == 1 ? " numbers is" : " numbers are") + " not finite, the first " + what + " at " +
         detail::element_place(t, first);
}

}  // namespace dm2
