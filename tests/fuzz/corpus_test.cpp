// The fuzz targets over the files of their corpus, as every compiler runs them: each is read or refused by its name, in
// little time and memory.
#include "fuzz/targets.hpp"
#include "io/scratch.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <ctime>
#include <filesystem>
#include <set>
#include <span>
#include <string>
#include <vector>

#include <sys/resource.h>

using namespace dm2::test;
namespace fs = std::filesystem;

#if defined(__SANITIZE_ADDRESS__)
#define DM2_UNDER_SANITIZER
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define DM2_UNDER_SANITIZER
#endif
#endif

namespace {

struct result {
  bool taken;
  double seconds;
};

result run(dm2::fuzz::target const& t, std::string const& bytes) {
  std::clock_t const begin = std::clock();  // the processor's time: other programs take none of it
  bool const taken = t.run(std::as_bytes(std::span{bytes}));
  return {taken, double(std::clock() - begin) / CLOCKS_PER_SEC};
}

/// The most memory that the process has had, in bytes.
std::size_t peak_memory() {
  ::rusage use{};
  ::getrusage(RUSAGE_SELF, &use);
  return std::size_t(use.ru_maxrss) * 1024;
}

std::vector<fs::path> files_in(fs::path const& folder) {
  std::vector<fs::path> out;
  for (auto const& one : fs::directory_iterator{folder})
    if (one.is_regular_file()) out.push_back(one.path());
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace

TEST_CASE("fuzz corpus: every file is read or refused by its name, in under a second and 64 MiB") {
  std::set<std::string> names;
  for (dm2::fuzz::target const& t : dm2::fuzz::all_targets()) {
    std::string const name{t.name};
    fs::path const folder = fs::path{DM2_FUZZ_CORPUS} / name;
    names.insert(name);
    if (!fs::exists(folder)) continue;
    std::size_t taken = 0;
    for (fs::path const& file : files_in(folder)) {
      CAPTURE(file.string());
      [[maybe_unused]] std::size_t const before = peak_memory();
      result const got = run(t, read_raw(file));
      taken += got.taken ? 1 : 0;
#ifndef DM2_UNDER_SANITIZER  // which takes more of both
      CHECK(got.seconds < 1);
      CHECK(peak_memory() - before < std::size_t{64} << 20);
#endif
    }
    CAPTURE(name);
    if (name != "large") CHECK(taken > 0);  // else the reader was not reached
  }
  for (auto const& folder : fs::directory_iterator{DM2_FUZZ_CORPUS})  // a folder of no target would be run by nobody
    CHECK(names.contains(folder.path().filename().string()));
}

TEST_CASE("fuzz corpus: every reader takes any beginning of its files, and files of other readers") {
  auto const targets = dm2::fuzz::all_targets();
  for (dm2::fuzz::target const& t : targets) {
    if (t.name == "large") continue;
    for (dm2::fuzz::target const& other : targets) {
      fs::path const folder = fs::path{DM2_FUZZ_CORPUS} / other.name;
      if (!fs::exists(folder)) continue;
      for (fs::path const& file : files_in(folder)) {
        std::string const bytes = read_raw(file);
        (void)run(t, bytes);
        if (t.name == other.name)
          for (std::size_t part = 1; part < 8; ++part) (void)run(t, bytes.substr(0, bytes.size() * part / 8));
      }
    }
  }
}

TEST_CASE("fuzz corpus: a training checkpoint is resumed, and no piece of it is") {
  scratch_folder const folder;
  dm2::fuzz::write_checkpoint_seed(folder / "c.safetensors");
  std::string const whole = read_raw(folder / "c.safetensors");
  auto const targets = dm2::fuzz::resume_targets();
  CHECK(run(targets.front(), whole).taken);
  for (std::size_t part = 0; part < 16; ++part)
    CHECK_FALSE(run(targets.front(), whole.substr(0, whole.size() * part / 16)).taken);
}
