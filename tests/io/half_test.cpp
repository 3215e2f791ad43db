#include <dm2/io/half.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>

namespace {
/// The value of a binary floating-point pattern, from the definition in IEEE 754.
double value(std::uint32_t bits, int exponent_bits, int fraction_bits) {
  int const bias = (1 << (exponent_bits - 1)) - 1;
  auto const exponent = static_cast<int>(bits >> fraction_bits & ((1u << exponent_bits) - 1));
  auto const fraction = static_cast<double>(bits & ((1u << fraction_bits) - 1));
  double const scale = std::ldexp(1.0, fraction_bits), sign = bits >> (exponent_bits + fraction_bits) != 0 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1) return fraction == 0 ? sign * HUGE_VAL : std::nan("");
  if (exponent == 0) return sign * std::ldexp(fraction / scale, 1 - bias);
  return sign * std::ldexp(1 + fraction / scale, exponent - bias);
}

template <class Convert>
int wrong_patterns(Convert convert, int exponent_bits, int fraction_bits) {
  int wrong = 0;
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    float const got = convert(static_cast<std::uint16_t>(bits));
    double const want = value(bits, exponent_bits, fraction_bits);
    bool const same = std::isnan(want) ? std::isnan(got)
                                       : static_cast<double>(got) == want && std::signbit(got) == std::signbit(want);
    wrong += same ? 0 : 1;
  }
  return wrong;
}
}  // namespace

TEST_CASE("half: every pattern becomes the float of the same value") {
  CHECK(wrong_patterns(dm2::half_to_float, 5, 10) == 0);
}

TEST_CASE("bfloat16: every pattern becomes the float of the same value") {
  CHECK(wrong_patterns(dm2::bfloat16_to_float, 8, 7) == 0);
}

TEST_CASE("half: known values") {
  CHECK(dm2::half_to_float(0x3C00) == 1.0f);
  CHECK(dm2::half_to_float(0xC000) == -2.0f);
  CHECK(dm2::half_to_float(0x7BFF) == 65504.0f);
  CHECK(dm2::half_to_float(0x0001) == std::ldexp(1.0f, -24));
  CHECK(dm2::bfloat16_to_float(0x3F80) == 1.0f);
}
