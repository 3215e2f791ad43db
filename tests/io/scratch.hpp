/// @file
/// Raw files for tests of file formats.
#pragma once

#include "support/raw_bytes.hpp"
#include "support/scratch_folder.hpp"

#include <doctest/doctest.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>

namespace dm2::test {

inline void write_raw(std::filesystem::path const& path, std::string_view bytes) {
  std::filesystem::remove(path);
  std::ofstream out{path, std::ios::binary | std::ios::trunc};
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  REQUIRE(out.good());
}

inline std::string read_raw(std::filesystem::path const& path) {
  std::ifstream in{path, std::ios::binary};
  REQUIRE(in.good());
  return {std::istreambuf_iterator<char>{in}, {}};
}

/// A file of the golden folder.
inline std::filesystem::path golden_file(std::string_view name) { return std::filesystem::path{DM2_GOLDEN_DIR} / name; }

}  // namespace dm2::test
