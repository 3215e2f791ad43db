/// @file
/// Compiled models, kept in a folder of the user's: made once, checked whenever they are used.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/run/build_request.hpp>
#include <dm2/run/cache_names.hpp>
#include <dm2/run/cached_entry.hpp>
#include <dm2/run/compile_entry.hpp>
#include <dm2/run/entry_lock.hpp>
#include <dm2/run/hash64.hpp>
#include <dm2/run/private_folder.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace dm2::run {

/// An entry of the cache, as `list` shows it.
struct cached_model {
  std::filesystem::path path;  ///< of the entry
  std::uint64_t bytes = 0;     ///< of the file
  std::string problem;         ///< empty for a whole entry; else why it will be made again, and `statement` is empty
  entry_statement statement;   ///< title, identity, date, milliseconds
};

/// What `prune` did.
struct prune_report {
  std::size_t models = 0;   ///< entries removed
  std::uint64_t bytes = 0;  ///< of those
  std::size_t busy = 0;     ///< left, because they are being compiled, whether there was an entry or not
};

/// A folder of shared objects. Whoever can write into it decides what dm2's programs execute: it is used only where
/// that is nobody but the user (and root), from the file system's root down. See docs/models.md.
///
/// An entry's name is the hash of its identity; the file states the identity, which is compared, and a checksum of
/// every byte. An entry that is damaged, truncated, of another format or not what its name says is made again.
///
///     dm2::run::cache models;
///     auto path = models.find(identity);                      // a second start: some milliseconds
///     if (!path) path = models.find_or_compile(request, [](std::string const& line) { std::cerr << line << '\n'; });
///
/// Any number of threads and processes may use one folder. Every member throws file_error where the folder is refused.
class cache {
 public:
  /// Makes an identity's key.
  using key_function = std::uint64_t (*)(std::string_view);
  /// Gets a line for people.
  using say_function = std::function<void(std::string const&)>;

  /// Touches nothing: the folder is made when something is compiled. `key` is for tests of what happens when two
  /// identities have one hash.
  explicit cache(
      std::filesystem::path const& folder = default_folder(),
      key_function key = [](std::string_view text) { return hash64(text); })
      : folder_{std::filesystem::absolute(folder)}, key_{key} {}

  /// ${XDG_CACHE_HOME:-$HOME/.cache}/dm2; a relative XDG_CACHE_HOME is ignored, as its specification demands. Throws
  /// std::runtime_error where neither is set.
  [[nodiscard]] static std::filesystem::path default_folder() {
    for (auto const& [variable, below] : {std::pair{"XDG_CACHE_HOME", ""}, std::pair{"HOME", ".cache"}})
      if (char const* const value = std::getenv(variable); value != nullptr && value[0] == '/')
        return (std::filesystem::path{value} / below / "dm2").lexically_normal();
    throw std::runtime_error{"no folder for compiled models: neither XDG_CACHE_HOME nor HOME names one"};
  }

  /// The cache's folder, which may not exist.
  [[nodiscard]] std::filesystem::path const& folder() const noexcept { return folder_; }

  /// The whole entry of an identity, every byte of it checked; nothing where there is none. Takes no lock and writes
  /// nothing. An entry that is pruned before it is loaded is gone all the same: ask again.
  [[nodiscard]] std::optional<std::filesystem::path> find(std::string_view identity) const {
    std::filesystem::path const real = detail::require_private(folder_);
    slot const at = look(real, identity);
    return at.found ? std::optional{at.path} : std::nullopt;
  }

  /// The entry of the request's identity, compiled where there is none. Says, a line each, what is compiled and where
  /// it will stay, and the seconds and bytes it took; or that another process compiles the same and is waited for. Many
  /// calls at once, from any processes, compile once.
  ///
  /// Throws compile_error with the compiler's message, compile_stopped soon after *stop becomes true, file_error, what
  /// request.check throws, and std::invalid_argument for a request that is none. The cache is unchanged then.
  std::filesystem::path find_or_compile(build_request const& request, say_function const& say = {},
                                        std::atomic<bool> const* stop = nullptr) const {
    if (auto const there = find(request.identity)) return *there;
    detail::require_request(request);
    std::filesystem::path const real = detail::make_private(folder_);
    auto const tell = [&say](std::string const& line) {
      if (say) say(line);
    };
    std::string const key = hash_text(key_(request.identity));
    detail::entry_lock lock{real / detail::lock_name(key)};
    lock.take([&] { tell("another process compiles " + request.title + ": waiting for it"); }, stop);
    slot const at = look(real, request.identity);
    if (at.found) return at.path;
    if (request.check) request.check();
    sweep(real, key);
    tell("compiling " + request.title + ", to be kept in " + at.path.string() +
         (at.problem.empty() ? "" : " (what is there " + at.problem + ")"));
    detail::entry_place const place{at.path, real / detail::unfinished_name(key), lock.path()};
    entry_statement const s = detail::compile_entry(request, place, stop);
    tell("compiled in " + tenths(s.took_ms, 1000) + " s: " + tenths(std::int64_t(s.bytes), 1'000'000) + " MB");
    return at.path;
  }

  /// Every entry, checked, by title. Other files in the folder are not looked at.
  [[nodiscard]] std::vector<cached_model> list() const {
    std::filesystem::path const real = detail::require_private(folder_);
    std::vector<cached_model> out;
    for (std::string const& name : detail::names_in(real)) {
      if (detail::key_of(name, detail::object_ending).empty()) continue;
      std::error_code gone;
      auto const bytes = std::filesystem::file_size(real / name, gone);
      found_entry entry = look_at(real / name, name);
      if (entry.state == found_entry::kind::missing) continue;
      out.push_back({real / name, gone ? 0 : bytes, std::move(entry.problem), std::move(entry.statement)});
    }
    std::stable_sort(out.begin(), out.end(), [](cached_model const& a, cached_model const& b) {
      return a.statement.title < b.statement.title;
    });
    return out;
  }

  /// Removes every entry that `which` picks (all, where it is empty), and what killed processes have left. What is
  /// being compiled stays; so do files that are not the cache's. A program that has loaded an entry keeps it.
  prune_report prune(std::function<bool(cached_model const&)> const& which = {}) const {
    prune_report out;
    if (!std::filesystem::exists(folder_)) return out;
    std::filesystem::path const real = detail::require_private(folder_);
    std::set<std::string> busy = sweep(real, {});
    for (cached_model const& model : list()) {
      if (which && !which(model)) continue;
      std::string const key = detail::key_of(model.path.filename().string(), detail::object_ending);
      detail::entry_lock lock{real / detail::lock_name(key)};
      if (!lock.try_take()) {
        busy.insert(key);
        continue;
      }
      if (!detail::remove_tree(AT_FDCWD, model.path.c_str())) throw file_error{model.path, "cannot be removed"};
      out.models += 1;
      out.bytes += model.bytes;
    }
    out.busy = busy.size();
    return out;
  }

 private:
  /// Where an identity's entry is or belongs, and what is wrong with what is there.
  struct slot {
    std::filesystem::path path;
    bool found = false;
    std::string problem;
  };

  /// find_entry, and whether the name is the one of its identity.
  [[nodiscard]] found_entry look_at(std::filesystem::path const& path, std::string const& name) const {
    found_entry out = find_entry(path);
    if (out.state != found_entry::kind::whole) return out;
    if (hash_text(key_(out.statement.identity)) == detail::key_of(name, detail::object_ending)) return out;
    return {found_entry::kind::bad, {}, "is the entry of another model"};
  }

  /// Goes through the eight names that identities of one hash share.
  [[nodiscard]] slot look(std::filesystem::path const& real, std::string_view identity) const {
    std::string const key = hash_text(key_(identity));
    slot out{real / detail::object_name(key, 0), false, {}};
    for (bool chosen = false; std::string const& name : detail::object_names(key)) {
      found_entry entry = look_at(real / name, name);
      if (entry.state == found_entry::kind::whole && entry.statement.identity == identity)
        return {real / name, true, {}};
      if (entry.state != found_entry::kind::whole && !chosen) {
        out = {real / name, false, std::move(entry.problem)};
        chosen = true;
      }
      if (entry.state == found_entry::kind::missing) break;
    }
    return out;
  }

  /// Removes what killed processes have left: unfinished folders and lock files that nobody holds. `held` is the key
  /// whose lock the caller has. Returns the keys of what other processes compile.
  static std::set<std::string> sweep(std::filesystem::path const& real, std::string const& held) {
    std::set<std::string> busy;
    for (std::string const& name : detail::names_in(real)) {
      std::string key = detail::key_of(name, detail::unfinished_ending);
      if (key.empty()) key = detail::key_of(name, detail::lock_ending);
      if (key.empty()) continue;
      detail::entry_lock lock{real / detail::lock_name(key)};
      if (key != held && !lock.try_take()) {
        busy.insert(key);
        continue;
      }
      detail::remove_tree(AT_FDCWD, (real / detail::unfinished_name(key)).c_str());
    }
    return busy;
  }

  /// value / unit with one decimal.
  [[nodiscard]] static std::string tenths(std::int64_t value, std::int64_t unit) {
    std::int64_t const rounded = (value * 10 + unit / 2) / unit;
    return std::to_string(rounded / 10) + '.' + std::to_string(rounded % 10);
  }

  std::filesystem::path folder_;
  key_function key_;
};

}  // namespace dm2::run
