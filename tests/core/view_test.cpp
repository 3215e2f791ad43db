#include <dm2/core/view.hpp>

#include <doctest/doctest.h>

#include <array>
#include <numeric>
#include <type_traits>

using namespace dm2;

namespace {
template <class From, class To>
constexpr bool converts = std::is_convertible_v<From, To>;
}

TEST_CASE("view: rows become read-only rows, and nothing else") {
  CHECK(converts<rows<float, 8>, rows<float const, 8>>);
  CHECK_FALSE(converts<rows<float const, 8>, rows<float, 8>>);
  CHECK_FALSE(converts<rows<float, 8>, rows<float, 9>>);
  CHECK_FALSE(converts<rows<float, 8>, rows<double, 8>>);
  CHECK_FALSE(converts<rows<float, 8>, rows<double const, 8>>);
  CHECK_FALSE(converts<rows<float, 8>, rows<float, 8, space::device>>);
  CHECK_FALSE(converts<rows<float, 8, space::device>, rows<float const, 8>>);
}

TEST_CASE("view: blocks become read-only blocks, and nothing else") {
  using weight = block<float, space::host, 3, 4>;
  CHECK(converts<weight, block<float const, space::host, 3, 4>>);
  CHECK_FALSE(converts<block<float const, space::host, 3, 4>, weight>);
  CHECK_FALSE(converts<weight, block<float const, space::host, 4, 3>>);
  CHECK_FALSE(converts<weight, block<float const, space::host, 12>>);
  CHECK_FALSE(converts<weight, block<double const, space::host, 3, 4>>);
  CHECK_FALSE(converts<weight, block<float const, space::device, 3, 4>>);
  CHECK_FALSE(converts<float*, weight>);
}

TEST_CASE("view: converted views see the same numbers") {
  std::array<float, 12> x{};
  rows<float, 4> const all{x.data(), 3};
  rows<float const, 4> const seen = all;
  block<float, space::host, 3, 4> const b{x.data()};
  block<float const, space::host, 3, 4> const seen_block = b;
  CHECK(seen.data == x.data());
  CHECK(seen.count == 3);
  CHECK(seen_block.data == x.data());
}

TEST_CASE("view: a slice is consecutive rows, and a row its C numbers") {
  std::array<int, 20> x{};
  std::iota(x.begin(), x.end(), 0);
  rows<int, 4> const all{x.data(), 5};
  CHECK(all.size() == 20);
  auto const part = all.slice(1, 3);
  CHECK(part.count == 3);
  CHECK(part.size() == 12);
  CHECK(part[0][0] == 4);
  CHECK(part[2][3] == 15);
  CHECK(part.slice(2, 1)[0][0] == 12);
  CHECK(all.slice(5, 0).size() == 0);
  CHECK(all[0].size() == 4);
  all[4][3] = -1;
  CHECK(x[19] == -1);
}

TEST_CASE("view: a block knows its shape at compile time; a scalar has none and one element") {
  using weight = block<double, space::host, 2, 3, 4>;
  CHECK(weight::rank == 3);
  CHECK(weight::shape == std::array{2, 3, 4});
  CHECK(weight::size == 24);
  CHECK(block<double, space::host>::size == 1);
  CHECK(weight{}.data == nullptr);
  CHECK(rows<double, 3>{}.count == 0);
}
