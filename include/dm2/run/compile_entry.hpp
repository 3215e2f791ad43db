/// @file
/// An entry of the cache is made: compiled, stated, renamed into place.
#pragma once

#include <dm2/io/synced_folder.hpp>
#include <dm2/run/build_request.hpp>
#include <dm2/run/cached_entry.hpp>
#include <dm2/run/compiler_process.hpp>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace dm2::run::detail {

/// Where an entry is made. All are in one folder, so that a rename moves what was made.
struct entry_place {
  std::filesystem::path object;      ///< the entry
  std::filesystem::path unfinished;  ///< the folder in which it is made
  std::filesystem::path lock;        ///< held by the caller
};

/// The compilers' commands, one a unit, and the linker's, alone.
[[nodiscard]] inline std::vector<compiler_command> commands_of(build_request const& r,
                                                               std::filesystem::path const& in) {
  std::vector<compiler_command> out;
  compiler_command link{r.link, true};
  link.words.insert(link.words.end(), {"-o", (in / "model.so").string()});
  for (unit const& u : r.units) {
    compiler_command& compile = out.emplace_back(compiler_command{u.compile.empty() ? r.compile : u.compile});
    std::string const object = (in / (u.name + ".o")).string();
    compile.words.insert(compile.words.end(), {"-c", (in / u.name).string(), "-o", object});
    link.words.push_back(object);
  }
  link.words.insert(link.words.end(), r.libraries.begin(), r.libraries.end());
  out.push_back(std::move(link));
  return out;
}

inline void write_units(build_request const& r, std::filesystem::path const& in) {
  if (::mkdir(in.c_str(), 0700) != 0) throw file_error{in, "cannot be made: " + system_message(errno)};
  for (unit const& u : r.units) {
    descriptor const file = open_file(in / u.name, O_WRONLY | O_CREAT | O_EXCL);
    if (!file) throw file_error{in / u.name, "cannot be made: " + system_message(errno)};
    write_all(file, u.text, in / u.name);
  }
}

/// Makes the entry, over what may be there under its name; returns its statement. The folder for unfinished work is
/// gone afterwards, and after every failure the entry's place is as it was. Throws compile_error, compile_stopped,
/// file_error.
inline entry_statement compile_entry(build_request const& r, entry_place const& place, std::atomic<bool> const* stop) {
  using clock = std::chrono::steady_clock;
  auto const begin = clock::now();
  std::filesystem::path const made = place.unfinished / "model.so";
  compiler_process process{commands_of(r, place.unfinished), place.unfinished, place.lock};
  write_units(r, place.unfinished);  // after the watcher's start, which removes them if this process is killed now
  try {
    process.run(stop);
  } catch (compile_error const& error) {
    throw compile_error{r.title + " cannot be compiled: " + error.what()};
  }
  if (r.check) r.check();
  entry_statement s{r.title, r.identity};
  s.took_ms = std::chrono::duration_cast<std::chrono::milliseconds>(clock::now() - begin).count();
  auto const now = std::chrono::system_clock::now().time_since_epoch();
  state_entry(made, s, std::chrono::duration_cast<std::chrono::seconds>(now).count());
  auto const renamed = [&] { return ::rename(made.c_str(), place.object.c_str()) == 0; };
  bool const placed = renamed() || (errno == EISDIR && remove_tree(AT_FDCWD, place.object.c_str()) && renamed());
  if (!placed) throw file_error{place.object, "cannot be renamed into place: " + system_message(errno)};
  dm2::detail::sync_folder(place.object.parent_path(), place.object);
  return s;
}

}  // namespace dm2::run::detail
