// How a run of train is disturbed and stopped: signals, output that cannot be written, descriptors that are closed.
#include "examples/picture_folder.hpp"
#include "io/refusal.hpp"

#include <doctest/doctest.h>

#include <filesystem>
#include <string>

using namespace dm2::test;
namespace fs = std::filesystem;

namespace {

/// Waits until the run's table of steps has such a row, or the run is gone.
std::string until(std::string const& row) {
  return "until grep -qs '" + row + "' runs/micro/steps.csv; do kill -0 $p || break; sleep 0.02; done\n";
}

/// A long run with a row for each step, in the background, as $p, that has done two.
std::string const start =
    "launch --epochs 100000 --log-interval 1 --image-interval 0 --checkpoint-hist 0 > out 2> err & p=$!\n" +
    until("^2,");
std::string const finish = "wait $p; echo code=$?";

}  // namespace

TEST_CASE("train: every signal that asks a run to stop lets it write a checkpoint, however often it comes") {
  for (std::string const signal : {"TERM", "INT", "HUP", "USR1", "USR2", "XCPU"}) {
    CAPTURE(signal);
    picture_folder const here;
    std::string const again = signal == "TERM" || signal == "INT" ? "" : "kill -" + signal + " $p; kill -TERM $p;";
    // a shell's background jobs ignore SIGINT, unless it has job control
    auto const run = here.shell("set -m; " + start + "kill -" + signal + " $p; " + again + finish);
    CHECK(contains(run.out, "code=5\n"));
    CHECK(fs::exists(here.run("last.safetensors")));
    CHECK(contains(read_raw(here.folder / "out"), "--resume auto goes on"));
  }
}

TEST_CASE("train: nohup and a closed pipe do not stop a run") {
  picture_folder const here;
  auto const ignored =
      here.shell("trap '' HUP; " + start + "kill -HUP $p\n" + until("^9,") + "kill -TERM $p; " + finish);
  CHECK(contains(ignored.out, "code=5\n"));
  CHECK(lines_of(read_raw(here.run("steps.csv"))).size() > 9);  // it went on after SIGHUP

  picture_folder const piped;
  auto const run = piped.shell("set -o pipefail; train --log-interval 1 | true; echo code=$?");
  CHECK(contains(run.out, "code=3\n"));
  CHECK(run.err.find("the output could not be written") == run.err.rfind("the output could not be written"));
  CHECK(contains(run.err, "the output could not be written"));
  CHECK(fs::exists(piped.run("epoch-0002.safetensors")));
}

TEST_CASE("train: output that cannot be written is said once, and the run goes on; the code is that of the table") {
  if (!fs::exists("/dev/full")) return;
  picture_folder const here;
  auto const run = here.shell("train > /dev/full; echo code=$? >&2");
  CHECK(contains(run.err, "code=3\n"));
  CHECK(run.err.find("could not be written") == run.err.rfind("could not be written"));
  CHECK(fs::exists(here.run("epoch-0002.safetensors")));
  auto const help = here.train_only({"--help"});
  CHECK(contains(help.out, "only the output could not be written"));
  CHECK(contains(here.shell("train --lr fast > /dev/full; echo code=$? >&2").err, "code=2\n"));
}

TEST_CASE("train: closed descriptors never become a file of the run") {
  for (std::string const closed : {"<&-", ">&-", "2>&-", "<&- >&- 2>&-"}) {
    CAPTURE(closed);
    picture_folder const here;
    auto const run = here.shell("train --amp --log-interval 1 " + closed + "; echo code=$? > code");
    CHECK(read_raw(here.folder / "code") == (contains(closed, " >") || closed == ">&-" ? "code=3\n" : "code=0\n"));
    CHECK(lines_of(read_raw(here.run("epochs.csv"))).size() == 3);
    CHECK(lines_of(read_raw(here.run("steps.csv"))).size() == 5);
    for (char const* table : {"epochs.csv", "steps.csv"})
      for (char const* word : {"train", "model", "amp"})
        CHECK_FALSE(contains(read_raw(here.run(table)).substr(read_raw(here.run(table)).find('\n')), word));
  }
}
