// Numbers of a file that are not finite.
#include <dm2/io/finite.hpp>

#include "io/scratch.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace {
template <class T>
std::string text(std::vector<T> const& values, dm2::dtype type, std::vector<std::int64_t> shape,
                 std::vector<std::int64_t> strides) {
  return dm2::not_finite_text(dm2::stored_tensor{"w", type, std::move(shape), std::move(strides),
                                                 reinterpret_cast<std::byte const*>(values.data())});
}
}  // namespace

TEST_CASE("finite: the first number that is not is named with its place in the tensor, whatever the strides") {
  float const nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  CHECK(text<float>({1, -2, 3e38f, 0}, dm2::dtype::f32, {4}, {1}).empty());
  CHECK(text<float>({1, -nan, 3, inf}, dm2::dtype::f32, {2, 2}, {2, 1}) ==
        "'w': 2 of 4 numbers are not finite, the first nan at [0, 1]");
  CHECK(text<float>({1, 2, -inf, 4}, dm2::dtype::f32, {2, 2}, {1, 2}) ==
        "'w': 1 of 4 numbers is not finite, the first -inf at [0, 1]");
  CHECK(text<float>({nan}, dm2::dtype::f32, {}, {}) == "'w': 1 of 1 numbers is not finite, the first nan at []");
}

TEST_CASE("finite: halves that overflowed are, doubles beyond float's range are, integers are not") {
  CHECK(text<std::uint16_t>({0x7BFF, 0x7C00}, dm2::dtype::f16, {2}, {1}) ==
        "'w': 1 of 2 numbers is not finite, the first inf at [1]");
  CHECK(text<std::uint16_t>({0xFFC0, 0x3F80}, dm2::dtype::bf16, {2}, {1}) ==
        "'w': 1 of 2 numbers is not finite, the first nan at [0]");
  CHECK(text<double>({1e39, 1}, dm2::dtype::f64, {2}, {1}).find("beyond the type's range") != std::string::npos);
  std::vector<double> const large{1e39};
  CHECK(dm2::not_finite_text<double>(
            dm2::stored_tensor{"w", dm2::dtype::f64, {1}, {1}, reinterpret_cast<std::byte const*>(large.data())})
            .empty());
  CHECK(text<std::int64_t>({-1}, dm2::dtype::i64, {1}, {1}).empty());
}
