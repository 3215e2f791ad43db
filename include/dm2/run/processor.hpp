/// @file
/// What tells the processors apart that -march=native compiles for.
#pragma once

#include <dm2/core/compiler.hpp>

#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>

namespace dm2::run {

/// The lines of the first processor in /proc/cpuinfo by which a compiler chooses instructions: maker, family, model and
/// flags; empty where the system has no such file.
[[nodiscard]] inline std::string processor_text(char const* file = "/proc/cpuinfo") {
  constexpr std::array<std::string_view, 9> wanted{"vendor_id", "cpu family",      "model\t",          "flags",
                                                   "Features",  "CPU implementer", "CPU architecture", "CPU variant",
                                                   "CPU part"};
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> const in{std::fopen(file, "re"), &std::fclose};
  std::string out, line;
  // One processor of the many: the file is made while it is read, which takes milliseconds for a hundred.
  for (int c = 0; in && (c = std::fgetc(in.get())) != EOF;) {
    if (c != '\n') {
      line += char(c);
      continue;
    }
    if (line.empty()) break;
    if (std::any_of(wanted.begin(), wanted.end(), [&](std::string_view name) { return line.starts_with(name); }))
      out += line + '\n';
    line.clear();
  }
  return out;
}

}  // namespace dm2::run
