/// @file
/// A cache in a scratch folder, and shell commands in the compiler's place.
#pragma once

#include <dm2/run/cache.hpp>

#include "io/scratch.hpp"

#include <doctest/doctest.h>

#include <sys/stat.h>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace dm2::test {

/// A scratch folder whose mode is 0700 whatever the umask is.
struct private_scratch : scratch_folder {
  private_scratch() { ::chmod(path().c_str(), 0700); }
};

/// What a shell does in the compiler's place: "$0" is a file to count in, "$2" the unit, "$4" the object.
inline constexpr char const* copying = R"(echo x >> "$0"; cp "$2" "$4")";

/// A request whose object is its units' text, one after the other.
inline run::build_request stub_request(std::filesystem::path const& counted, std::string const& identity = "one",
                                       char const* compiler = copying) {
  run::build_request r;
  r.title = "model " + identity;
  r.identity = identity;
  r.units = {{"first.cpp", "first of " + identity + "\n"}, {"second.cpp", "second\n"}};
  r.compile = {"/bin/sh", "-c", compiler, counted.string()};
  r.link = {"/bin/sh", "-c", R"(out=$2; shift 2; cat "$@" > "$out")", "link"};
  return r;
}

/// A cache that nobody has used, and how often its compiler of shell commands has compiled a unit.
struct stub_cache {
  private_scratch scratch;
  std::filesystem::path folder = scratch / "dm2", counted = scratch / "counted";
  run::cache models{folder};
  std::vector<std::string> said;

  std::filesystem::path make(run::build_request const& r) {
    return models.find_or_compile(r, [this](std::string const& line) { said.push_back(line); });
  }
  std::filesystem::path make(std::string const& identity = "one") { return make(stub_request(counted, identity)); }
  [[nodiscard]] std::size_t compiled() const {
    if (!std::filesystem::exists(counted)) return 0;
    std::string const text = read_raw(counted);
    return std::size_t(std::count(text.begin(), text.end(), '\n'));
  }
  [[nodiscard]] std::vector<std::string> files() const { return run::detail::names_in(folder); }
  [[nodiscard]] bool whole(std::filesystem::path const& entry) const {
    return run::find_entry(entry).state == run::found_entry::kind::whole;
  }
};

/// what() of the exception E that f throws; a failed check and an empty text where it throws none.
template <class E, class F>
std::string message_of(F const& f) {
  try {
    f();
  } catch (E const& error) {
    return error.what();
  }
  FAIL_CHECK("nothing was thrown");
  return {};
}

inline bool has(std::string_view text, std::string_view part) { return text.find(part) != text.npos; }

}  // namespace dm2::test
