// A training run over the GPU with frozen layers, and rates and decays of their own.
#include <dm2/cuda/step_engine.cuh>
#include <dm2/train/trainer.hpp>

#include <doctest/doctest.h>

#include "comm/thread_processes.hpp"
#include "io/scratch.hpp"
#include "train/small_run.hpp"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <map>
#include <string>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

using in_bf16 = cuda::context<cuda::precision::bf16>;
using in_float = cuda::context<cuda::precision::fp32>;

/// 24 pictures in batches of 4: steps of 4 and 2 micro-batches. Of the layers 0 to 3, so many are frozen.
trainer_options tuned_options(optimizer_kind kind, int frozen) {
  trainer_options o = small_options();
  o.accumulate = 4;
  o.optimizer.kind = kind;
  o.optimizer.clip_norm = 0.3;
  o.optimizer.tuning = {.frozen = frozen, .layer_decay = 0.7, .head_scale = 5, .no_decay = {"1d", "embedding"}};
  return o;
}

std::map<std::string, std::string> files_of(int processes, trainer_options const& o) {
  scratch_folder const folder;
  as_processes(processes, [&](communicator& self) {
    small_run<float, in_bf16> run{mapped(), o, run_folder{folder.path(), 3}, 1, small_transform(), self};
    CHECK(run.driver.run());
  });
  return contents(folder.path());
}

template <class Context>
std::vector<double> losses_of(trainer_options o) {
  std::vector<double> losses;
  o.on_step = [&](step_report const& s) { losses.push_back(s.loss); };
  small_run<float, Context> run{mapped(), o};
  CHECK(run.driver.run());
  return losses;
}

}  // namespace

TEST_CASE("cuda trainer: with frozen layers and groups the losses of a run are the CPU's") {
  for (int const frozen : {0, 2, 3}) {
    auto const o = tuned_options(optimizer_kind::adamw, frozen);
    auto const got = losses_of<in_float>(o), want = losses_of<cpu::context<float>>(o);
    REQUIRE(got.size() == want.size());
    for (std::size_t i = 0; i < got.size(); ++i) CHECK(got[i] == doctest::Approx(want[i]).epsilon(1e-3));
  }
}

TEST_CASE("cuda trainer: with frozen layers and groups a run leaves the same bytes, stopped, resumed, on processes") {
  for (int const frozen : {0, 2}) {
    auto const o = tuned_options(frozen == 0 ? optimizer_kind::adamw : optimizer_kind::lion, frozen);
    auto const want = files_of(1, o);
    REQUIRE(want.size() == 4);
    CHECK(files_of(3, o) == want);
    scratch_folder const folder;
    std::atomic<bool> stop{false};
    trainer_options stopped = o;
    stopped.stop = &stop;
    stopped.on_step = [&](step_report const& s) {
      if (s.step == 2) stop = true;
    };
    CHECK_FALSE(small_run<float, in_bf16>{mapped(), stopped, run_folder{folder.path(), 3}}.driver.run());
    small_run<float, in_bf16> second{mapped(), o, run_folder{folder.path(), 3}};
    second.driver.resume(folder / "last.safetensors");
    CHECK(second.driver.run());
    CHECK(contents(folder.path()) == want);
  }
}

TEST_CASE("cuda trainer: frozen layers keep weights, averages, statistics and counts") {
  for (int const frozen : {1, 3}) {
    small_run<float, in_bf16> run{mapped(), tuned_options(optimizer_kind::adamw, frozen)};  // Lion may step back
    std::vector<float> const before(run.net.state().begin(), run.net.state().end());
    CHECK(run.driver.run());
    for (parameter_entry const& e : parameter_table<small_config>) {
      CAPTURE(e.name);
      if (e.kind == entry_kind::counter) {
        CHECK(run.net.counters()[e.offset] == 0);
        continue;
      }
      if (e.kind == entry_kind::unused) continue;
      auto const same = [&](std::span<float const> now) {
        return std::equal(now.begin() + std::ptrdiff_t(e.offset), now.begin() + std::ptrdiff_t(e.offset + e.size),
                          before.begin() + std::ptrdiff_t(e.offset));
      };
      CHECK(same(run.net.state()) == (e.layer < frozen));
      CHECK(same(run.driver.average().state()) == (e.layer < frozen));
    }
  }
}
