/// @file
/// Folders for tests to write into.
#pragma once

#include <atomic>
#include <cstddef>
#include <filesystem>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <system_error>

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

}  // namespace dm2::test
