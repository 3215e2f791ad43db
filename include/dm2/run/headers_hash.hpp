/// @file
/// A hash of the dm2 headers that a program was built from.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/run/hash64.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>
#include <vector>

namespace dm2::run {

/// Which headers are hashed: those of the processor (.hpp), or those and the GPU's (.cuh).
enum class header_kind { cpp, cuda };

/// The hash of every header's name and content below `folder`, which is an include/dm2. The order in which the file
/// system lists them plays no part, nor do other files. 2 ms for the 300 headers of dm2.
///
/// Throws file_error where the folder or a header cannot be read.
[[nodiscard]] inline std::uint64_t headers_hash(std::filesystem::path const& folder, header_kind kind) {
  std::error_code problem;
  std::vector<std::filesystem::path> files;
  std::filesystem::recursive_directory_iterator at{folder, problem};
  for (; !problem && at != std::filesystem::recursive_directory_iterator{}; at.increment(problem)) {
    auto const extension = at->path().extension();
    if (extension == ".hpp" || (kind == header_kind::cuda && extension == ".cuh")) files.push_back(at->path());
  }
  if (problem) throw file_error{folder, "cannot be listed: " + problem.message()};
  std::sort(files.begin(), files.end());
  std::uint64_t hash = hash64({});
  std::string text;
  for (auto const& file : files) {
    auto const size = std::filesystem::file_size(file, problem);
    std::ifstream in{file, std::ios::binary};
    text.resize(problem ? 0 : std::size_t(size));
    in.read(text.data(), std::streamsize(text.size()));
    if (problem || !in) throw file_error{file, "cannot be read"};
    std::string const name = file.lexically_relative(folder).generic_string();
    hash = hash64(text, hash64(name + '\n' + std::to_string(text.size()) + '\n', hash));
  }
  return hash;
}

}  // namespace dm2::run
