/// @file
/// The machine's name, for files that several machines write into one folder.
#pragma once

#include <array>
#include <string>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace dm2::detail {

/// The machine's name, of letters, digits, '.' and '-' only: it becomes part of a file's name.
[[nodiscard]] inline std::string host_name() {
  std::array<char, 256> name{};
#if defined(__unix__) || defined(__APPLE__)
  if (::gethostname(name.data(), name.size() - 1) != 0) name[0] = '\0';
#endif
  std::string text{name.data()};
  for (char& c : text)
    if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.')) c = '-';
  return text.empty() ? "localhost" : text;
}

}  // namespace dm2::detail
