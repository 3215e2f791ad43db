// A training run with frozen layers, and rates and decays of their own.
#include <dm2/comm/communicator.hpp>
#include <dm2/io/mapped_file.hpp>
#include <dm2/io/safetensors.hpp>

#include "comm/thread_processes.hpp"
#include "io/scratch.hpp"
#include "train/small_run.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

/// Steps of 5, 5 and 2 micro-batches. Of the layers 0 to 3, so many are frozen.
trainer_options tuned_options(optimizer_kind kind, int frozen) {
  trainer_options o = small_options();
  o.batch = 2;
  o.accumulate = 5;
  o.optimizer.kind = kind;
  o.optimizer.clip_norm = 0.3;
  o.optimizer.shared_pairs = true;
  o.optimizer.tuning = {.frozen = frozen, .layer_decay = 0.7, .head_scale = 5, .no_decay = {"1d", "embedding"}};
  return o;
}

std::map<std::string, std::string> tuned_files(int processes, trainer_options const& o) {
  scratch_folder const folder;
  as_processes(processes, [&](communicator& self) {
    small_run<> run{mapped(), o, run_folder{folder.path(), 3}, 1, small_transform(), self};
    if (!run.driver.run()) throw std::runtime_error{"did not come to the end"};
  });
  return contents(folder.path());
}

}  // namespace

TEST_CASE("trainer: with frozen layers and groups a run leaves the same bytes on any number of processes") {
  for (auto const kind : {optimizer_kind::lion, optimizer_kind::adamw})
    for (int const frozen : {0, 2, 3}) {
      CAPTURE(frozen);
      auto const want = tuned_files(1, tuned_options(kind, frozen));
      REQUIRE(want.size() == 4);
      for (int const processes : {2, 5}) CHECK(tuned_files(processes, tuned_options(kind, frozen)) == want);
    }
}

TEST_CASE("trainer: with frozen layers and groups a stopped and resumed run leaves the same bytes") {
  for (int const frozen : {0, 1, 2}) {
    trainer_options const o = tuned_options(optimizer_kind::adamw, frozen);
    scratch_folder const folder;
    std::atomic<bool> stop{false};
    trainer_options stopped = o;
    stopped.stop = &stop;
    stopped.on_step = [&](step_report const& s) {
      if (s.step == 2) stop = true;
    };
    CHECK_FALSE(small_run<>{mapped(), stopped, run_folder{folder.path(), 3}}.driver.run());
    small_run<> second{mapped(), o, run_folder{folder.path(), 3}};
    second.driver.resume(folder / "last.safetensors");
    CHECK(second.driver.run());
    CHECK(contents(folder.path()) == tuned_files(1, o));
  }
}

TEST_CASE("trainer: frozen layers keep weights, averages, statistics and counts, and get no momentum") {
  for (int const frozen : {1, 2, 3}) {
    CAPTURE(frozen);
    scratch_folder const folder;
    small_run<> run{mapped(), tuned_options(optimizer_kind::adamw, frozen), run_folder{folder.path(), 3}};
    std::vector<double> const before(run.net.state().begin(), run.net.state().end());
    CHECK(run.driver.run());
    mapped_file const file{folder / "last.safetensors"};
    safetensors_content const all = read_safetensors(file.bytes(), folder / "last.safetensors");
    CHECK(all.tensors.size() > 2 * parameter_table<small_config>.size());
    for (parameter_entry const& e : parameter_table<small_config>) {
      CAPTURE(e.name);
      if (e.kind == entry_kind::counter) {
        CHECK(run.net.counters()[e.offset] == 0);
        continue;
      }
      if (e.kind == entry_kind::unused) continue;
      auto const same = [&](std::span<double const> now) {
        return std::equal(now.begin() + std::ptrdiff_t(e.offset), now.begin() + std::ptrdiff_t(e.offset + e.size),
                          before.begin() + std::ptrdiff_t(e.offset));
      };
      bool const still = e.layer < frozen;
      CHECK(same(run.net.state()) == still);
      CHECK(same(run.driver.average().state()) == still);
      if (e.kind != entry_kind::parameter) continue;
      auto const momentum = to_vector<double>(*std::find_if(all.tensors.begin(), all.tensors.end(), [&](auto const& t) {
        return t.name == "momentum/" + std::string{e.name};
      }));
      CHECK(std::any_of(momentum.begin(), momentum.end(), [](double v) { return v != 0; }) == !still);
    }
  }
}

TEST_CASE("trainer: tuning that is out of range, or names nothing, is refused before anything is trained") {
  trainer_options o = tuned_options(optimizer_kind::lion, 4);  // the heads are layer 3
  CHECK_THROWS_AS((small_run<>{mapped(), o}), std::invalid_argument);
  o.optimizer.tuning = {.no_decay = {"nothing"}};
  CHECK_THROWS_AS((small_run<>{mapped(), o}), std::invalid_argument);
}
