/// @file
/// Training on pictures that the device finishes: the same bytes.
#include <dm2/cuda/device/pinned_resource.cuh>
#include <dm2/cuda/step_engine.cuh>
#include <dm2/data/pack/pack.hpp>
#include <dm2/train/trainer.hpp>

#include <doctest/doctest.h>

#include "io/scratch.hpp"
#include "train/small_run.hpp"

#include <atomic>
#include <map>
#include <string>

using namespace dm2;
using namespace dm2::test;

namespace {

using in_bf16 = cuda::context<cuda::precision::bf16>;
using run = small_run<float, in_bf16>;

void leave_raw(run& r) {
  r.training.leave_raw(cuda::pinned_resource::get());
  r.validation.leave_raw(cuda::pinned_resource::get());
}

std::map<std::string, std::string> trained(bool raw, int threads) {
  scratch_folder const folder;
  run r{mapped(), small_options(), run_folder{folder.path(), 3}, threads, training_sample_transform({16, 16})};
  if (raw) leave_raw(r);
  CHECK(r.driver.run());
  return contents(folder.path());
}

/// The small set, packed.
struct packed_pictures {
  scratch_folder folder;
  dataset set;

  packed_pictures() : set{packed(folder)} {}
  static dataset packed(scratch_folder const& folder) {
    pack_pictures(mapped(), folder / "set");
    return dataset{folder / "set", {.label_maps = folder / "set"}};
  }
};

}  // namespace

TEST_CASE("cuda trainer: the device's pictures make the bytes that the host's make, from any number of threads") {
  auto const want = trained(false, 1);
  REQUIRE(want.size() == 4);
  CHECK(trained(true, 1) == want);
  CHECK(trained(true, 3) == want);
}

TEST_CASE("cuda trainer: a run stopped in an epoch's middle goes on with raw pictures of a set to the same bytes") {
  auto const want = trained(false, 1);
  packed_pictures const pack;
  scratch_folder const folder;
  std::atomic<bool> stop{false};
  trainer_options o = small_options();
  o.stop = &stop;
  o.on_step = [&](step_report const& s) {
    if (s.step == 2) stop = true;
  };
  run first{pack.set, o, run_folder{folder.path(), 3}, 2, training_sample_transform({16, 16})};
  leave_raw(first);
  CHECK_FALSE(first.driver.run());
  run second{pack.set, small_options(), run_folder{folder.path(), 3}, 2, training_sample_transform({16, 16})};
  leave_raw(second);
  second.driver.resume(folder / "last.safetensors");
  CHECK(second.driver.run());
  CHECK(contents(folder.path()) == want);
}
