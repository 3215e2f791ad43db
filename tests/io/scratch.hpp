/// @file
/// Scratch folders and raw files for tests of file formats.
#pragma once

#include <doctest/doctest.h>

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <string_view>

namespace dm2::test {

/// A new folder that is removed with everything in it.
class scratch_folder {
 public:
  scratch_folder() {
    static std::atomic<int> count{0};
    std::random_device source;
    path_ = std::filesystem::temp_directory_path() /
            ("dm2_test_" + std::to_string(source()) + "_" + std::to_string(count.fetch_add(1)));
    std::filesystem::create_directory(path_);
  }
  scratch_folder(scratch_folder const&) = delete;
  scratch_folder& operator=(scratch_folder const&) = delete;
  ~scratch_folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::filesystem::path operator/(std::string_view name) const { return path_ / name; }
  std::filesystem::path const& path() const { return path_; }
  std::size_t files() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator{path_}, {}));
  }

 private:
  std::filesystem::path path_;
};

inline void write_raw(std::filesystem::path const& path, std::string_view bytes) {
  std::ofstream out{path, std::ios::binary | std::ios::trunc};
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  REQUIRE(out.good());
}

inline std::string read_raw(std::filesystem::path const& path) {
  std::ifstream in{path, std::ios::binary};
  REQUIRE(in.good());
  return {std::istreambuf_iterator<char>{in}, {}};
}

/// The bytes of a number, little-endian.
template <class T>
std::string raw(T value) {
  return {reinterpret_cast<char const*>(&value), sizeof value};
}

/// A file of the golden folder.
inline std::filesystem::path golden(std::string_view name) { return std::filesystem::path{DM2_GOLDEN_DIR} / name; }

}  // namespace dm2::test
