/// @file
/// What dm2's programs were compiled with, as CMake writes it down.
#pragma once

#include <dm2/core/compiler.hpp>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace dm2::run {

/// A compiler and its words, of one language. Texts of many words have one a line; cmake/run.cmake fills them.
struct built_compiler {
  char const* path = "";         ///< empty where dm2 was built without that language
  char const* version = "";      ///< "GNU 12.2.0"
  char const* flags = "";        ///< without warnings
  char const* definitions = "";  ///< names, and names with =value
  char const* folders = "";      ///< that are searched for headers, dm2's own among them
  char const* libraries = "";    ///< that a shared object may need
  std::uint64_t headers = 0;     ///< headers_hash of what dm2 was built from
};

/// A build of dm2.
struct built_with {
  char const* version = "";           ///< dm2's
  built_compiler cpp;                 ///< of C++
  built_compiler cuda;                ///< of CUDA; its path is empty where the build has none
  char const* source_folder = "";     ///< the source tree's include folder
  char const* installed_folder = "";  ///< the installation's
};

/// This program's build. Defined by the CMake target dm2_built_toolchain.
[[nodiscard]] built_with const& built_toolchain();

namespace detail {

/// The lines of a text that are not empty. Of "SHELL:a b", CMake's way to keep words together, the words.
[[nodiscard]] inline std::vector<std::string> lines_of(std::string_view text) {
  std::vector<std::string> out;
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(line.size() == text.size() ? line.size() : line.size() + 1);
    char const between = line.starts_with("SHELL:") ? ' ' : '\n';
    if (between == ' ') line.remove_prefix(6);
    while (!line.empty()) {
      std::string_view const word = line.substr(0, line.find(between));
      line.remove_prefix(word.size() == line.size() ? word.size() : word.size() + 1);
      if (!word.empty()) out.emplace_back(word);
    }
  }
  return out;
}

}  // namespace detail
}  // namespace dm2::run
