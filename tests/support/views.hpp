/// @file
/// Views of vectors, and what a refused call says.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/view.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace dm2::test {

/// A vector as rows of C numbers; its size must be a multiple of C.
template <int C, class T>
rows<T, C> as_rows(std::vector<T>& x) {
  REQUIRE(x.size() % C == 0);
  return {x.data(), x.size() / C};
}
template <int C, class T>
rows<T const, C> as_rows(std::vector<T> const& x) {
  REQUIRE(x.size() % C == 0);
  return {x.data(), x.size() / C};
}

/// A vector as a tensor of known shape; its size must be that of the shape.
template <int... E, class T>
block<T, space::host, E...> as_block(std::vector<T>& x) {
  block<T, space::host, E...> const b{x.data()};
  REQUIRE(x.size() == b.size);
  return b;
}
template <int... E, class T>
block<T const, space::host, E...> as_block(std::vector<T> const& x) {
  block<T const, space::host, E...> const b{x.data()};
  REQUIRE(x.size() == b.size);
  return b;
}

/// The message of the shape_error that f throws.
template <class F>
std::string shape_message(F const& f) {
  try {
    f();
  } catch (shape_error const& e) {
    return e.what();
  }
  return "no shape_error";
}

}  // namespace dm2::test
