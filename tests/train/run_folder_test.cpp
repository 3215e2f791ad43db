// A run's folder: which files are a run's, one writer, and an old run that comes back.
#include <dm2/train/run_folder.hpp>
#include <dm2/train/run_lock.hpp>
#include <dm2/train/run_replacement.hpp>

#include "io/refusal.hpp"
#include "io/scratch.hpp"

#include <doctest/doctest.h>

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

using namespace dm2;
using namespace dm2::test;
namespace fs = std::filesystem;

namespace {

/// Every file under a folder, by its path in it.
std::map<std::string, std::string> tree(fs::path const& root) {
  std::map<std::string, std::string> out;
  for (auto const& entry : fs::recursive_directory_iterator{root})
    out[entry.path().lexically_relative(root).string()] = entry.is_directory() ? "/" : read_raw(entry.path());
  return out;
}

/// A folder with an old run in it, and two files that are nobody's.
void write_run(fs::path const& root, std::string const& whose) {
  for (char const* name :
       {"last.safetensors", "best.safetensors", "epoch-0009.safetensors", "epoch-12345.safetensors", "steps.csv",
        "epochs.csv", "profile.csv", "data_profile.csv", "data_profile.png", "events.out.tfevents.7.host"})
    write_raw(root / name, whose);
}

}  // namespace

TEST_CASE("run folder: a name is an epoch's checkpoint only with digits, four or more, and nothing else") {
  for (char const* name : {"epoch-0001.safetensors", "epoch-12345.safetensors"})
    CHECK(detail::is_epoch_checkpoint(name));
  for (char const* name : {"epoch-.safetensors", "epoch-001.safetensors", "epoch-best.safetensors", "epoch-0001",
                           "epoch-00x1.safetensors", "my-epoch-0001.safetensors", "epoch-safetensors", ""})
    CHECK_FALSE(detail::is_epoch_checkpoint(name));
}

TEST_CASE("run folder: the history goes by its own names alone") {
  scratch_folder const folder;
  write_run(folder.path(), "run");
  write_raw(folder / "epoch-mine.safetensors", "mine");
  run_folder{folder.path(), 1}.keep_history(9);
  CHECK(fs::exists(folder / "epoch-mine.safetensors"));
  CHECK(fs::exists(folder / "epoch-0009.safetensors"));
  CHECK_FALSE(fs::exists(folder / "epoch-12345.safetensors"));
}

TEST_CASE("run folder: what tells of a run is found, checkpoints first, and nothing else counts") {
  scratch_folder const folder;
  run_folder const run{folder.path()};
  CHECK(run_folder{}.trace().empty());
  for (char const* name : {"notes.txt", ".hidden.safetensors", "steps.csv.txt", "last.safetensors.bak"})
    write_raw(folder / name, "");
  CHECK(run.trace().empty());
  for (char const* name : {"steps.csv", "mine.safetensors", "last.safetensors"}) {
    write_raw(folder / name, "");
    CHECK(run.trace() == folder / name);
  }
  CHECK(run.checkpoints() == std::vector<fs::path>{folder / "last.safetensors", folder / "mine.safetensors"});
}

TEST_CASE("run lock: a second one is refused with who holds it, until the first is gone, and leaves no file") {
  scratch_folder const folder;
  std::optional<run_lock> first{std::in_place, folder.path()};
  REQUIRE(first->held());
  std::string const who = "process " + std::to_string(::getpid()) + " on ";
  CHECK(contains(refusal(folder.path(), [&] { run_lock const second{folder.path()}; }), who));
  CHECK_THROWS_AS(run_lock{folder.path()}, folder_in_use);
  first.reset();
  CHECK(folder.files() == 0);
  write_raw(folder / ".lock", "what a killed process left, longer than any name of a process and of a machine\n");
  run_lock const third{folder.path()};
  CHECK(third.held());
  CHECK(read_raw(folder / ".lock").starts_with(who));
}

TEST_CASE("run lock: another process is kept out, and its end gives the lock back") {
  scratch_folder const folder;
  auto const taken_by_child = [&] {
    pid_t const child = ::fork();
    if (child == 0) {
      try {
        run_lock const lock{folder.path()};
        ::_exit(lock.held() ? 0 : 1);  // without the destructor, as a kill ends it
      } catch (folder_in_use const&) {
        ::_exit(2);
      }
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE(WIFEXITED(status));
    return WEXITSTATUS(status);
  };
  CHECK(taken_by_child() == 0);
  {
    run_lock const own{folder.path()};  // the child's file is there, its lock is not
    CHECK(own.held());
    CHECK(taken_by_child() == 2);
  }
  CHECK(taken_by_child() == 0);
}

TEST_CASE("run replacement: the old run comes back to the byte, or goes for good, and other files stay") {
  scratch_folder const folder;
  write_run(folder.path(), "old");
  write_raw(folder / "notes.txt", "mine");
  auto const before = tree(folder.path());
  run_folder const run{folder.path()};
  run_replacement{run}.put_back();  // nothing is aside
  CHECK(tree(folder.path()) == before);

  run_replacement replaced{run};
  replaced.begin();
  CHECK(run.trace().empty());
  CHECK(fs::exists(folder / "notes.txt"));
  write_run(folder.path(), "new");
  replaced.put_back();
  CHECK(tree(folder.path()) == before);

  replaced.begin();
  write_raw(folder / "last.safetensors", "new");
  replaced.finish();
  CHECK(tree(folder.path()) == std::map<std::string, std::string>{{"last.safetensors", "new"}, {"notes.txt", "mine"}});
}

TEST_CASE("run replacement: what a kill leaves at any moment is put right by the next start") {
  // the moments: while files move aside, before the new run has a checkpoint, while they come back, after one
  for (int moment = 0; moment < 6; ++moment) {
    CAPTURE(moment);
    scratch_folder const folder;
    write_run(folder.path(), "old");
    auto const before = tree(folder.path());
    run_folder const run{folder.path()};
    run_replacement replaced{run};
    bool back = true;
    if (moment == 0) {
      fs::create_directory(folder / ".replacing");
      fs::rename(folder / "last.safetensors", folder / ".replacing/last.safetensors");
    } else {
      replaced.begin();
    }
    if (moment == 2) write_raw(folder / "steps.csv", "new");
    if (moment == 3) fs::rename(folder / ".replaced", folder / ".replacing");
    if (moment >= 4) {
      write_raw(folder / "epoch-0001.safetensors", "new");
      back = false;
    }
    if (moment == 5) fs::remove(folder / ".replaced/last.safetensors");
    CHECK(run_replacement{run}.recover() == back);
    CHECK(tree(folder.path()) ==
          (back ? before : std::map<std::string, std::string>{{"epoch-0001.safetensors", "new"}}));
    CHECK_FALSE(run_replacement{run}.recover());
  }
}
