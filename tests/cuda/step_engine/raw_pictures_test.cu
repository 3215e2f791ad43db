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
#include <span>
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

/// Counts what a trainer's decoder is given.
class counting_decoder final : public raw_decoder {
 public:
  explicit counting_decoder(raw_decoder& of) : of_{of} {}
  [[nodiscard]] std::span<int const> decode(raw_pictures& raw) override {
    for (picture_task const& t : raw.tasks) ++(t.encoded ? encoded : others);
    return of_.decode(raw);
  }
  int encoded = 0, others = 0;

 private:
  raw_decoder& of_;
};

enum class decoded { finished_on_host, on_host, on_device };

std::map<std::string, std::string> trained(decoded how, int threads, dataset const& set = mapped()) {
  scratch_folder const folder;
  run r{set, small_options(), run_folder{folder.path(), 3}, threads, training_sample_transform({16, 16})};
  REQUIRE(r.driver.picture_decoder() != nullptr);
  counting_decoder decoder{*r.driver.picture_decoder()};
  if (how == decoded::on_host) leave_raw(r);
  if (how == decoded::on_device) {
    r.training.leave_raw(cuda::pinned_resource::get(), &decoder);
    r.validation.leave_raw(cuda::pinned_resource::get(), &decoder);
  }
  CHECK(r.driver.run());
  CHECK((decoder.encoded > 0) == (how == decoded::on_device));
  CHECK(decoder.others == 0);
  return contents(folder.path());
}

/// What a run leaves whose pictures the host finishes. Two tests want the same.
std::map<std::string, std::string> const& finished_on_host() {
  static auto const files = trained(decoded::finished_on_host, 1);
  return files;
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
  auto const& want = finished_on_host();
  REQUIRE(want.size() == 4);
  CHECK(trained(decoded::on_host, 1) == want);
  CHECK(trained(decoded::on_host, 3) == want);
}

#ifdef DM2_WITH_JPEG

TEST_CASE("cuda trainer: the JPEGs of a set that the device decodes make the bytes that the host's decoding makes") {
  scratch_folder const folder;
  pack_pictures(mapped(), folder / "set", {.quality = 85});
  dataset const set{folder / "set", {.label_maps = folder / "set"}};
  auto const want = trained(decoded::finished_on_host, 1, set);
  CHECK(trained(decoded::on_device, 1, set) == want);
  CHECK(trained(decoded::on_device, 3, set) == want);
}

#endif

TEST_CASE("cuda trainer: a run stopped in an epoch's middle goes on with raw pictures of a set to the same bytes") {
  auto const& want = finished_on_host();
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
