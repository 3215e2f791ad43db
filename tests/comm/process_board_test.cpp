// The notice board of a machine's processes.
#include <dm2/comm/process_board.hpp>

#include "io/scratch.hpp"

#include <doctest/doctest.h>

#include <chrono>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>

#include <sys/wait.h>
#include <unistd.h>

using namespace dm2;
using namespace dm2::test;

TEST_CASE("process_board: those behind in their exchanges are named, each with what it was in last") {
  scratch_folder const folder;
  detail::process_board first{folder / "board", 0, 3};
  std::optional<detail::process_board> second{std::in_place, folder / "board", 1, 3};
  second->enter(4, 16, "weights");
  first.enter(5, 17, "gradients of a name that is too long for its place");
  std::string const text = first.report(31.5);
  CHECK(text.starts_with(
      "processes 1, 2 of 3 did not answer process 0 within 31.5 s in the exchange 'gradients of a name "
      "that is too ' of step 18; last heard: process 1 0.0 s ago after 'weights' of step 17, process 2 "
      "never"));
  second->enter(5, 17, "gradients");
  CHECK(first.report(1).starts_with("process 2 of 3 did not answer"));
}

TEST_CASE("process_board: what another process writes is seen, and its end does not take the board away") {
  scratch_folder const folder;
  auto const file = folder / "board";
  detail::process_board own{file, 0, 2};
  pid_t const child = ::fork();
  if (child == 0) {
    detail::process_board theirs{file, 1, 2};
    theirs.enter(7, 2, "weights");
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  own.enter(8, 2, "gradients");
  CHECK(own.report(1).find("process 1 0.0 s ago after 'weights' of step 3") != std::string::npos);
}

TEST_CASE("process_board: a link in its place, or a folder that is not there, is refused") {
  scratch_folder const folder;
  std::filesystem::create_symlink(folder / "elsewhere", folder / "link");
  CHECK_THROWS_AS((detail::process_board{folder / "link", 0, 2}), std::runtime_error);
  CHECK_FALSE(std::filesystem::exists(folder / "elsewhere"));
  CHECK_THROWS_AS((detail::process_board{folder / "gone" / "board", 0, 2}), std::runtime_error);
}
