// A training run on several processes: the same bytes, and one end for all.
#include <dm2/comm/communicator.hpp>
#include <dm2/train/state_slices.hpp>

#include "comm/thread_processes.hpp"
#include "io/scratch.hpp"
#include "train/small_run.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

/// The files that a run on so many processes leaves; what each process says is checked to be the first's.
std::map<std::string, std::string> files_of(int processes, trainer_options const& o) {
  scratch_folder const folder;
  std::vector<double> best(static_cast<std::size_t>(processes));
  as_processes(processes, [&](communicator& self) {
    small_run<> run{mapped(), o, run_folder{folder.path(), 3}, 1, small_transform(), self};
    if (!run.driver.run()) throw std::runtime_error{"did not come to the end"};
    best[static_cast<std::size_t>(self.rank())] = run.driver.best();
  });
  CHECK(std::count(best.begin(), best.end(), best[0]) == processes);
  return contents(folder.path());
}

/// 24 pictures in batches of 2: steps of 5, 5 and 2.
trainer_options options(optimizer_kind kind, double clip) {
  trainer_options o = small_options();
  o.batch = 2;
  o.accumulate = 5;
  o.optimizer.kind = kind;
  o.optimizer.clip_norm = clip;
  return o;
}

}  // namespace

TEST_CASE("trainer: a run leaves the same bytes on any number of processes") {
  for (auto const kind : {optimizer_kind::lion, optimizer_kind::adamw})
    for (double const clip : {0.0, 0.3})
      for (bool const pairs : {false, true}) {
        trainer_options o = options(kind, clip);
        o.optimizer.shared_pairs = pairs;
        auto const want = files_of(1, o);
        REQUIRE(want.size() == 4);
        for (int const processes : {2, 3, 5}) {
          CAPTURE(processes);
          CHECK(files_of(processes, o) == want);
        }
      }
}

TEST_CASE("trainer: a run that was stopped on one process of three goes on on two, to the same bytes") {
  trainer_options const o = options(optimizer_kind::lion, 0.3);
  auto const want = files_of(1, o);
  for (int const asked : {0, 2}) {
    scratch_folder const folder;
    std::array<std::atomic<bool>, 3> stop{};
    as_processes(3, [&](communicator& self) {
      trainer_options own = o;
      own.stop = &stop[static_cast<std::size_t>(self.rank())];
      // by process 0, after the first step: the one that is asked learns it in the second
      own.on_step = [&](step_report const&) { stop[static_cast<std::size_t>(asked)] = true; };
      small_run<> run{mapped(), own, run_folder{folder.path(), 3}, 1, small_transform(), self};
      CHECK_FALSE(run.driver.run());
      CHECK(run.driver.steps() < 6);
    });
    as_processes(2, [&](communicator& self) {
      small_run<> run{mapped(), o, run_folder{folder.path(), 3}, 1, small_transform(), self};
      run.driver.resume(folder / "last.safetensors");
      CHECK(run.driver.run());
    });
    CHECK(contents(folder.path()) == want);
  }
}

TEST_CASE("trainer: what diverges on one process ends all of them, with what that one found") {
  std::vector<std::string> texts(3);
  sample_transform const bad = [](picture p, label_map_data* map, random_stream& stream, std::span<float> out) {
    static std::atomic<int> calls{0};
    auto const crop = training_transform(std::move(p), map, augmentation{}, 16, 16, stream, out);
    if (++calls == 9) out[5] = std::numeric_limits<float>::quiet_NaN();
    return crop;
  };
  as_processes(3, [&](communicator& self) {
    small_run<> run{mapped(), options(optimizer_kind::lion, 0), {}, 1, bad, self};
    try {
      run.driver.run();
    } catch (divergence_error const& e) {
      texts[static_cast<std::size_t>(self.rank())] = e.what();
    }
  });
  CHECK(texts[0].find("is not finite in epoch 1") != std::string::npos);
  CHECK(texts[0].find("first bad picture of the batch: ") != std::string::npos);
  CHECK(texts[1] == texts[0]);
  CHECK(texts[2] == texts[0]);
}

TEST_CASE("trainer: where process 0 cannot write a checkpoint, every process ends") {
  scratch_folder const folder;
  std::array<int, 2> ended{};
  as_processes(2, [&](communicator& self) {
    auto const root = folder / "gone";
    small_run<> run{mapped(),
                    options(optimizer_kind::lion, 0),
                    self.rank() == 0 ? run_folder{root} : run_folder::seen(root, 0),
                    1,
                    small_transform(),
                    self};
    if (self.rank() == 0) {
      std::filesystem::remove_all(folder / "gone");
      CHECK_THROWS_AS(run.driver.run(), file_error);
    } else {
      CHECK_THROWS_AS(run.driver.run(), process_error);
    }
    ended[static_cast<std::size_t>(self.rank())] = 1;
  });
  CHECK(ended == std::array{1, 1});
}

TEST_CASE("trainer: weights that differ between processes at an epoch's end are found out") {
  std::vector<std::string> texts(3);
  as_processes(3, [&](communicator& self) {
    trainer_options o = options(optimizer_kind::lion, 0);
    small_run<>* made = nullptr;
    o.on_step = [&](step_report const& r) {  // on process 0; every other number is its owner's
      if (r.batch == r.batches) made->net.state()[offset_of("head.bias")] += 1e-9;
    };
    small_run<> run{mapped(), o, {}, 1, small_transform(), self};
    made = &run;
    try {
      run.driver.run();
    } catch (process_error const& e) {
      texts[static_cast<std::size_t>(self.rank())] = e.what();
    }
  });
  for (std::string const& text : texts)
    CHECK(text == "process 1 has other weights than process 0 after epoch 1; a run cannot go on so");
}

TEST_CASE("trainer: an epoch's report has each process's times, and the bytes that it has to send") {
  std::vector<epoch_report> epochs;
  std::vector<step_report> steps;
  as_processes(3, [&](communicator& self) {
    trainer_options o = options(optimizer_kind::lion, 0);
    o.on_epoch = [&](epoch_report const& e) { epochs.push_back(e); };  // by process 0
    o.on_step = [&](step_report const& s) { steps.push_back(s); };
    small_run<> run{mapped(), o, {}, 1, small_transform(), self};
    CHECK(run.driver.run());
  });
  auto const slices = cut_state<small_config>(3);
  // Steps of 5, 5 and 2 micro-batches are rounds of 3, 2, 3, 2 and 2.
  constexpr std::array<std::size_t, 3> micro_batches{5, 5, 2};
  constexpr std::size_t number = sizeof(small_run<>::context::scalar), rounds = 5, optimizer_steps = 3;
  REQUIRE(!epochs.empty());
  REQUIRE(epochs[0].processes.size() == 3);
  for (std::size_t r = 0; r < 3; ++r) {
    std::size_t const own = slices[r].size(), others = state_extent<small_config> - own;
    std::size_t const gradients = micro_batches[r] * others * number, weights = optimizer_steps * own * 2 * number;
    std::size_t const losses = rounds * 2 * (3 + statistic_count<small_config>)*sizeof(double);
    time_parts const& t = epochs[0].processes[r];
    CAPTURE(r);
    CHECK(t.exchanged.bytes >= gradients + weights + losses);
    CHECK(t.exchanged.bytes < 1.02 * double(gradients + weights + losses));  // what else there is, is small
    CHECK(t.computing > 0);
    CHECK(t.exchanged.seconds > 0);
    CHECK(t.waiting + t.computing + t.exchanged.seconds <= t.total);
  }
  CHECK(epochs[0].validating > 0);
  CHECK(epochs[0].seconds == epochs[0].processes[0].total);
  std::uint64_t bytes = 0;
  double seconds = 0;
  for (std::size_t i = 0; i < optimizer_steps; ++i)
    bytes += steps[i].times.exchanged.bytes, seconds += steps[i].times.total;
  CHECK(bytes == epochs[0].processes[0].exchanged.bytes);
  CHECK(seconds <= epochs[0].seconds);
}

TEST_CASE("slowest_process: the one with the most work, its lead over the mean") {
  std::vector<time_parts> all{{10, 0, 5, {0, 4}}, {10, 0, 9, {0, 1}}, {10, 0, 5, {0, 4}}};
  CHECK(slowest_process{all}.rank == 1);
  CHECK(slowest_process{all}.lead == doctest::Approx(9.0 / 7 - 1));
  CHECK(slowest_process{std::vector<time_parts>(2)}.lead == 0);
}

TEST_CASE("trainer: more processes than micro-batches in a step, and loaders of another process, are refused") {
  mailbox box;
  thread_process third{box, 2, 3};
  trainer_options o = small_options();  // two micro-batches a step
  CHECK_THROWS_WITH_AS((small_run<>{mapped(), o, {}, 1, small_transform(), third}),
                       "trainer: 3 processes share steps of 2 micro-batches: at most one process a micro-batch",
                       std::invalid_argument);
  small_run<> alone{mapped(), o};
  thread_process second{box, 1, 2};
  CHECK_THROWS_WITH_AS((trainer<small_config, small_run<>::context>{alone.net, o, alone.training, nullptr, {}, second}),
                       "trainer: the training loader reads for process 0 of 1, this one is 1 of 2",
                       std::invalid_argument);
}

TEST_CASE("cut_state: slices follow one another, are of about equal sizes, and part no tensor and no pair") {
  for (int const processes : {1, 2, 3, 4, 7, 8, 64}) {
    CAPTURE(processes);
    auto const slices = cut_state<tiny>(processes);
    REQUIRE(slices.size() == std::size_t(processes));
    CHECK(slices.front().first == 0);
    CHECK(slices.back().end == state_extent<tiny>);
    for (std::size_t i = 0; i + 1 < slices.size(); ++i) CHECK(slices[i].end == slices[i + 1].first);
    for (state_slice const& s : slices)
      if (processes <= 8) CHECK(s.size() < 1.4 * double(state_extent<tiny>) / processes);
    for (parameter_entry const& e : parameter_table<tiny>) {
      if (e.kind == entry_kind::counter) continue;
      auto const holder = std::find_if(slices.begin(), slices.end(), [&](auto const& s) { return s.holds(e); });
      REQUIRE(holder != slices.end());
      CHECK(e.offset + e.size <= holder->end);
      if (detail::closes_pair(e.name)) CHECK(holder->first != e.offset);
    }
  }
  CHECK(cut_state<small_config>(200).back().end == state_extent<small_config>);
  CHECK_THROWS_AS(static_cast<void>(cut_state<tiny>(0)), std::invalid_argument);
}
