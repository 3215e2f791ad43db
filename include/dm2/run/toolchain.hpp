/// @file
/// The compiler and headers that models are compiled with: those that dm2 was built with.
#pragma once

#include <dm2/run/build_request.hpp>
#include <dm2/run/built_with.hpp>
#include <dm2/run/headers_hash.hpp>
#include <dm2/run/processor.hpp>

#include <dlfcn.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace dm2::run {

/// Something that compiling needs is not there, or not what dm2 was built with. what() says what, and how to have it.
struct toolchain_error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Words to compile and to link with, and the text that says what they depend on.
///
///     dm2::run::toolchain tools{dm2::run::header_kind::cpp};
///     std::string identity = configuration + tools.identity();   // 0.1 ms: runs nothing, reads no header
///     if (auto path = models.find(identity)) return *path;
///     tools.require();                                            // 2 ms: hashes every header
///     request = {title, identity, units, tools.compile(), tools.link(), tools.libraries(), [&] { tools.require(); }};
class toolchain {
 public:
  /// The tools of one language: C++ for the processor, or CUDA. `more` are flags that are added, such as the GPU's
  /// architecture. `program` is the program's file, beside which installed headers are looked for.
  explicit toolchain(header_kind kind, std::vector<std::string> more = {}, built_with const& build = built_toolchain(),
                     std::filesystem::path const& program = "/proc/self/exe")
      : kind_{kind}, build_{build}, told_{kind == header_kind::cpp ? build.cpp : build.cuda}, more_{std::move(more)} {
    std::error_code none;
    auto const file = std::filesystem::canonical(program, none);
    if (!none) candidates_.push_back(file.parent_path().parent_path() / "include");
    if (auto const own = own_folder(); !own.empty())
      for (auto const& folder : {own / "include", own.parent_path() / "include"}) candidates_.push_back(folder);
    for (std::string_view const folder : {build.installed_folder, build.source_folder})
      if (!folder.empty()) candidates_.emplace_back(folder);
  }

  /// What compiling lacks, as a sentence that says how to have it; empty where it lacks nothing. Reads every header.
  [[nodiscard]] std::string lacks() const {
    if (told_.path[0] == '\0') return "no compiler: this dm2 was built without CUDA (cmake -DDM2_CUDA=ON)";
    if (::access(told_.path, X_OK) != 0)
      return std::string{"no compiler: "} + told_.version + " is not at " + told_.path +
             ", where dm2 was built with it; install it, or build dm2 again with the one that is there";
    if (headers().empty()) return lacking_headers();
    for (std::string const& folder : other_folders())
      if (std::error_code none; !std::filesystem::is_directory(folder, none))
        return "headers that dm2 includes are not at " + folder + ", where they were when it was built: build it again";
    return {};
  }

  /// Throws toolchain_error with what lacks() says.
  void require() const {
    if (std::string const what = lacks(); !what.empty()) throw toolchain_error{what};
  }

  /// The folder that holds dm2/ with the headers that this program was built from: include/ beside the program's
  /// folder, in or beside the folder of the shared object that this is in, the installation's, the source tree's. Empty
  /// where there is none.
  [[nodiscard]] std::filesystem::path headers() const {
    for (auto const& folder : candidates_)
      if (std::error_code none; std::filesystem::is_directory(folder / "dm2", none))
        if (headers_hash(folder / "dm2", kind_) == told_.headers) return folder;
    return {};
  }

  /// The compiler and its flags, for position-independent code. Throws toolchain_error where headers() is empty.
  [[nodiscard]] std::vector<std::string> compile() const {
    std::filesystem::path const own = headers();
    if (own.empty()) throw toolchain_error{lacking_headers()};
    std::vector<std::string> out = words();
    out.push_back("-I" + own.string());
    for (std::string const& folder : other_folders()) out.insert(out.end(), {"-isystem", folder});
    return out;
  }

  /// The words that link a shared object, before its objects.
  [[nodiscard]] std::vector<std::string> link() const {
    std::vector<std::string> out = words();
    if (kind_ == header_kind::cuda) return out.push_back("-shared"), out;
    out.insert(out.end(), {"-shared", "-Wl,--as-needed"});
    return out;
  }

  /// The libraries behind the objects.
  [[nodiscard]] std::vector<std::string> libraries() const { return detail::lines_of(told_.libraries); }

  /// All that an object depends on beside its sources: dm2's version, the hash of its headers, the compiler's file and
  /// version, its words, the variables by which it takes more, and the processor where it compiles for the one that is
  /// there. Costs 0.1 ms: a compiler is known by its file's path, size and time.
  [[nodiscard]] std::string identity() const {
    std::string out = std::string{"dm2 "} + build_.version + "\nheaders " + hash_text(told_.headers) + "\ncompiler " +
                      told_.version + "\n" + file_text(told_.path);
    std::vector<std::string> const all = words();
    for (std::string const& word : all) {
      out += "word " + word + '\n';
      if (word.starts_with("-ccbin=")) out += file_text(word.substr(7));
    }
    for (std::string const& folder : other_folders()) out += "folder " + folder + '\n';
    for (std::string const& library : libraries()) out += "library " + library + '\n';
    for (char const* const name : {"CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH", "COMPILER_PATH",
                                   "GCC_EXEC_PREFIX", "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS", "NVCC_CCBIN"})
      if (char const* const value = std::getenv(name)) out += std::string{name} + '=' + value + '\n';
    bool const native =
        std::any_of(all.begin(), all.end(), [](std::string const& w) { return w.ends_with("=native"); });
    return native ? out + processor_text() : out;
  }

 private:
  /// The compiler, flags, definitions and the caller's flags.
  [[nodiscard]] std::vector<std::string> words() const {
    std::vector<std::string> out{told_.path};
    for (std::string& flag : detail::lines_of(told_.flags)) out.push_back(std::move(flag));
    for (std::string const& name : detail::lines_of(told_.definitions)) out.push_back("-D" + name);
    out.insert(out.end(), more_.begin(), more_.end());
    return out;
  }
  /// Other people's folders. Those of the system are searched anyway, and last, as the standard library needs it.
  [[nodiscard]] std::vector<std::string> other_folders() const {
    std::vector<std::string> out;
    for (std::string const& folder : detail::lines_of(told_.folders)) {
      bool const own = folder == build_.source_folder || folder == "/usr/include";
      if (!own && std::find(out.begin(), out.end(), folder) == out.end()) out.push_back(folder);
    }
    return out;
  }
  [[nodiscard]] std::string lacking_headers() const {
    std::string there, places;
    for (auto const& folder : candidates_) {
      std::error_code none;
      places += (places.empty() ? "" : " or ") + folder.string();
      if (there.empty() && std::filesystem::is_directory(folder / "dm2", none)) there = (folder / "dm2").string();
    }
    if (there.empty()) return "dm2's headers are not at " + places + "; the package dm2-dev or a clone has them";
    return "dm2's headers at " + there + " are not those that this program was built from: build it again";
  }
  /// The folder of the program or shared object that holds this code; empty where nothing tells it.
  [[nodiscard]] static std::filesystem::path own_folder() {
    ::Dl_info told{};
    if (::dladdr(reinterpret_cast<void const*>(&built_toolchain), &told) == 0 || told.dli_fname == nullptr) return {};
    std::error_code none;
    auto const file = std::filesystem::canonical(told.dli_fname, none);
    return none ? std::filesystem::path{} : file.parent_path();
  }
  /// A file by its path without links, its size and its time.
  [[nodiscard]] static std::string file_text(std::string const& path) {
    std::error_code none;
    auto const real = std::filesystem::canonical(path, none);
    struct ::stat s {};
    if (none || ::stat(real.c_str(), &s) != 0) return "file " + path + " is not there\n";
    return "file " + real.string() + ' ' + std::to_string(s.st_size) + ' ' + std::to_string(s.st_mtim.tv_sec) + '.' +
           std::to_string(s.st_mtim.tv_nsec) + '\n';
  }

  header_kind kind_;
  built_with const& build_;
  built_compiler const& told_;
  std::vector<std::string> more_;
  std::vector<std::filesystem::path> candidates_;
};

}  // namespace dm2::run
