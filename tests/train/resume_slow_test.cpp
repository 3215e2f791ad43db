// A run that is killed at any moment and resumed. The run is this program again, as a child process.
#include "io/scratch.hpp"
#include "train/small_run.hpp"

#include <doctest/doctest.h>

#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace dm2;
using namespace dm2::test;
namespace fs = std::filesystem;
using std::chrono::steady_clock;

namespace {

constexpr char const *folder_variable = "DM2_TEST_RUN", *pictures_variable = "DM2_TEST_PICTURES";
constexpr char const* child_case = "resume: what the child process runs";

/// 8 epochs of 6 steps, a checkpoint after each.
trainer_options long_options() {
  trainer_options o = small_options();
  o.accumulate = 1;
  o.rates.epochs = 8;
  o.checkpoint_steps = 1;
  return o;
}

/// A child that trains in `folder`; its output is thrown away.
pid_t start_child(fs::path const& folder, fs::path const& pictures) {
  ::setenv(folder_variable, folder.c_str(), 1);
  ::setenv(pictures_variable, pictures.c_str(), 1);
  std::string const program = fs::read_symlink("/proc/self/exe").string();
  std::string name = program, filter = std::string{"--test-case="} + child_case, all = "--no-skip";
  std::vector<char*> arguments{name.data(), filter.data(), all.data(), nullptr};
  ::posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  pid_t child = -1;
  int const problem = ::posix_spawn(&child, program.c_str(), &actions, nullptr, arguments.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  ::unsetenv(folder_variable);
  REQUIRE(problem == 0);
  return child;
}

bool wait_for(pid_t child, int& status, int flags = 0) { return ::waitpid(child, &status, flags) == child; }

/// The child's exit code 0, or a failure of the test.
void require_success(int status) {
  REQUIRE(WIFEXITED(status));
  REQUIRE(WEXITSTATUS(status) == 0);
}

/// Waits until the child is about to train; false if it has ended before.
bool started(pid_t child, fs::path const& mark, int& status) {
  while (!fs::exists(mark)) {
    if (wait_for(child, status, WNOHANG)) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds{1});
  }
  return true;
}

/// Every tensor of a checkpoint is there: the header's offsets are held against the file's size, the data are read.
/// Returns where the run was.
std::string require_whole(fs::path const& file) {
  mapped_file const mapped{file};
  safetensors_content const content = read_safetensors(mapped.bytes(), file);
  REQUIRE(content.metadata.contains(training_key));
  REQUIRE(content.tensors.size() > 2 * parameter_table<small_config>.size());
  for (stored_tensor const& t : content.tensors)
    for (double v : to_vector<double>(t)) REQUIRE(std::isfinite(v));
  return content.metadata.at(training_key);
}

}  // namespace

TEST_CASE("resume: what the child process runs" * doctest::skip()) {
  char const* const folder = std::getenv(folder_variable);
  if (folder == nullptr) return;
  dataset const set{fs::path{std::getenv(pictures_variable)} / "images",
                    {.label_maps = fs::path{std::getenv(pictures_variable)} / "maps"}};
  run_folder const files{folder, 2};
  files.remove_unfinished();
  small_run<float> run{set, long_options(), files, 2};
  if (fs::exists(files.last())) run.driver.resume(files.last());
  write_raw(fs::path{folder} / "started", "");
  CHECK(run.driver.run());
}

TEST_CASE("resume: twenty kills at random moments change no byte, and the last checkpoint is whole after each") {
  picture_set const pictures{24};
  fs::path const root = pictures.images().parent_path();
  scratch_folder const undisturbed;
  int status = 0;
  auto const begin = steady_clock::now();
  wait_for(start_child(undisturbed.path(), root), status);
  require_success(status);
  auto const duration = steady_clock::now() - begin;
  std::string const want_last = read_raw(undisturbed / "last.safetensors"),
                    want_best = read_raw(undisturbed / "best.safetensors");

  unsigned const seed = std::random_device{}();
  CAPTURE(seed);
  std::mt19937 random{seed};
  // twenty of them take a little more than one run, so that kills fall everywhere in it
  std::uniform_int_distribution<std::int64_t> wait_ns{0, std::chrono::nanoseconds{duration}.count() / 8};
  int kills = 0, runs = 0;
  std::set<std::string> places;
  while (kills < 20 || runs == 0) {
    CAPTURE(kills);
    scratch_folder const killed;
    bool ended = false, saved = false;
    for (; !ended; fs::remove(killed / "started")) {
      pid_t const child = start_child(killed.path(), root);
      ended = !started(child, killed / "started", status);
      if (!ended && kills < 20) {
        std::this_thread::sleep_for(std::chrono::nanoseconds{wait_ns(random)});
        ::kill(child, SIGKILL);
        ++kills;
      }
      if (!ended) wait_for(child, status);
      ended = WIFEXITED(status);
      if (ended) require_success(status);
      bool const there = fs::exists(killed / "last.safetensors");
      REQUIRE((there || !saved));  // once there, it is never gone
      if (there) places.insert(require_whole(killed / "last.safetensors"));
      saved = there;
    }
    ++runs;
    CHECK(read_raw(killed / "last.safetensors") == want_last);
    CHECK(read_raw(killed / "best.safetensors") == want_best);
    for (auto const& file : fs::directory_iterator{killed.path()})
      CHECK_FALSE(file.path().filename().string().ends_with(".tmp"));
  }
  CHECK(places.size() >= 3);
  MESSAGE(kills << " kills in " << runs << " runs, at " << places.size() << " different steps");
}
