/// @file
/// Checks that reading a file is refused with a message that names the file and the reason.
#pragma once

#include <dm2/core/error.hpp>

#include <doctest/doctest.h>

#include <filesystem>
#include <string>

namespace dm2::test {

/// The message of the file_error that `read()` throws, without the path in front; fails the test where there is none.
template <class Read>
std::string refusal(std::filesystem::path const& path, Read&& read) {
  try {
    read();
  } catch (dm2::file_error const& error) {
    std::string const what = error.what(), front = path.string() + ": ";
    CHECK(error.path() == path);
    CHECK(what.substr(0, front.size()) == front);
    return what.substr(front.size());
  }
  FAIL_CHECK("nothing was refused");
  return {};
}

inline bool contains(std::string const& text, std::string const& part) { return text.find(part) != std::string::npos; }

}  // namespace dm2::test
