#include <dm2/core/random.hpp>

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <vector>

using namespace dm2;

TEST_CASE("philox: gives the published known answers") {
  using words = std::array<std::uint32_t, 4>;
  CHECK(philox({0, 0, 0, 0}, {0, 0}) == words{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u});
  CHECK(philox({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}) == words{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu});
  CHECK(philox({0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}, {0xa4093822u, 0x299f31d0u}) ==
        words{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u});
}

TEST_CASE("random_stream: the same purpose gives the same numbers, another purpose others") {
  random_stream a{1, 2, 3}, b{1, 2, 3}, seed{9, 2, 3}, first{1, 9, 3}, second{1, 2, std::uint64_t{3} << 32};
  int equal = 0;
  for (int i = 0; i < 100; ++i) {
    auto const v = a.bits();
    CHECK(v == b.bits());
    equal += int(v == seed.bits()) + int(v == first.bits()) + int(v == second.bits());
  }
  CHECK(equal == 0);
}

TEST_CASE("random_stream: uniform and normal numbers have their moments, and below() its counts") {
  random_stream r{5, 0, 0};
  int const n = 200000;
  double sum = 0, square = 0, normal_sum = 0, normal_square = 0, fourth = 0;
  std::vector<int> counts(7);
  for (int i = 0; i < n; ++i) {
    double const u = r.uniform(), g = r.normal();
    CHECK_UNARY((u >= 0 && u < 1));
    sum += u;
    square += u * u;
    normal_sum += g;
    normal_square += g * g;
    fourth += g * g * g * g;
    ++counts[r.below(7)];
  }
  // five standard errors of each mean
  CHECK(std::abs(sum / n - 0.5) < 5 * std::sqrt(1.0 / 12 / n));
  CHECK(std::abs(square / n - 1.0 / 3) < 5 * std::sqrt(4.0 / 45 / n));
  CHECK(std::abs(normal_sum / n) < 5 / std::sqrt(double(n)));
  CHECK(std::abs(normal_square / n - 1) < 5 * std::sqrt(2.0 / n));
  CHECK(std::abs(fourth / n - 3) < 5 * std::sqrt(96.0 / n));
  for (int c : counts) CHECK(std::abs(c - n / 7.0) < 5 * std::sqrt(n * 6.0 / 49));
}

TEST_CASE("random_stream: below(1) is 0 and chance() keeps to its ends") {
  random_stream r{5, 1, 0};
  for (int i = 0; i < 1000; ++i) {
    CHECK(r.below(1) == 0);
    CHECK_FALSE(r.chance(0));
    CHECK(r.chance(1));
  }
}

TEST_CASE("normal_numbers: number i is the one that the stream would draw, wherever it stands") {
  for (int words = 0; words < 9; ++words)
    for (int normals = 0; normals < 3; ++normals) {
      random_stream r{0x123456789ABCDEFu, 3, 0x1234567890u};
      for (int i = 0; i < words; ++i) r.bits();
      for (int i = 0; i < normals; ++i) r.normal();
      normal_numbers const n = r.normals();
      for (std::uint64_t i = 0; i < 40; ++i) CHECK(n[i] == r.normal());
    }
}

TEST_CASE("random_stream: normal numbers are those of the C library's functions to 1e-14") {
  random_stream r{9, 1, 2}, same = r;
  for (int i = 0; i < 5000; ++i) {
    double const u = same.uniform(), v = same.uniform();
    double const radius = std::sqrt(-2 * std::log(1 - u)), angle = 2 * std::numbers::pi * v;
    CHECK(std::abs(r.normal() - radius * std::cos(angle)) < 1e-14);
    CHECK(std::abs(r.normal() - radius * std::sin(angle)) < 1e-14);
  }
}
