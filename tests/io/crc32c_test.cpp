// CRC-32C: the ways of computing it against each other. RFC 3720's values are in train/tensorboard_log_test.cpp.
#include <dm2/core/random.hpp>
#include <dm2/io/crc32c.hpp>

#include <doctest/doctest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

using namespace dm2;

TEST_CASE("crc32c: while compiling, by tables and as it runs there is one value, in pieces and at any alignment") {
  constexpr std::array<std::byte, 3> few{std::byte{1}, std::byte{2}, std::byte{200}};
  constexpr std::uint32_t compiled = detail::crc32c(few);
  CHECK(detail::crc32c(std::span{few}) == compiled);
  random_stream random{1, 2, 3};
  std::vector<std::byte> bytes(200);
  for (auto& b : bytes) b = std::byte(random.bits() & 0xFF);
  for (std::size_t first = 0; first < 9; ++first)
    for (std::size_t size = 0; size < 70; ++size) {
      auto const part = std::span<std::byte const>{bytes}.subspan(first, size);
      std::uint32_t const want = detail::crc32c_by_table(part, 0);
      CHECK(detail::crc32c(part) == want);
      CHECK(detail::crc32c(part.subspan(size / 3), detail::crc32c(part.first(size / 3))) == want);
    }
}
