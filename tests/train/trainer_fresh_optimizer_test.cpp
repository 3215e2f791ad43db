// A run that goes on with another optimizer, or with one that begins anew.
#include "io/scratch.hpp"
#include "train/small_run.hpp"

#include <doctest/doctest.h>

#include <atomic>
#include <cstdint>
#include <vector>

using namespace dm2;
using namespace dm2::test;

TEST_CASE(
    "trainer: resumed without its optimizer, a run has its weights, momenta of zero, and goes on counting steps") {
  scratch_folder const folder;
  trainer_options o = small_options();
  o.stop_after = 1;
  CHECK(small_run<>{mapped(), o, run_folder{folder.path()}}.driver.run());
  o.optimizer.kind = optimizer_kind::adamw;
  o.stop_after = 0;
  auto const go_on = [&](bool stop_there) {
    std::vector<std::int64_t> steps;
    std::atomic<bool> stop{false};
    trainer_options watched = o;
    watched.stop = &stop;
    watched.on_step = [&](step_report const& s) {
      steps.push_back(s.step);
      stop = stop_there;
    };
    small_run<> run{mapped(), watched, run_folder{folder.path()}};
    run.driver.resume(folder / "last.safetensors", false);
    CHECK(run.driver.steps() == 3);
    CHECK(run.driver.run() == !stop_there);
    CHECK(steps.front() == 4);
    CHECK(run.driver.steps() == (stop_there ? 4 : 6));
  };
  auto const start = read_raw(folder / "last.safetensors");
  go_on(false);
  auto const want = read_raw(folder / "last.safetensors");
  write_raw(folder / "last.safetensors", start);
  go_on(true);
  small_run<> rest{mapped(), o, run_folder{folder.path()}};
  rest.driver.resume(folder / "last.safetensors");
  CHECK(rest.driver.steps() == 4);
  CHECK(rest.driver.run());
  CHECK(read_raw(folder / "last.safetensors") == want);
}
