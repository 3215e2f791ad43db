// The training loop over the GPU.
#include <dm2/cuda/step_engine.cuh>
#include <dm2/train/trainer.hpp>

#include <doctest/doctest.h>

#include "io/scratch.hpp"
#include "train/small_run.hpp"

#include <atomic>
#include <cstddef>
#include <limits>
#include <map>
#include <string>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

using in_float = cuda::context<cuda::precision::fp32>;
using in_bf16 = cuda::context<cuda::precision::bf16>;

template <class Context>
std::vector<double> step_losses(trainer_options o, std::vector<std::int64_t>* numbers = nullptr) {
  std::vector<double> losses;
  o.on_step = [&](step_report const& s) {
    losses.push_back(s.loss);
    if (numbers != nullptr) numbers->push_back(s.step);
  };
  small_run<float, Context> run{mapped(), o};
  CHECK(run.driver.run());
  return losses;
}

std::map<std::string, std::string> uninterrupted(trainer_options const& o) {
  scratch_folder const folder;
  small_run<float, in_bf16> run{mapped(), o, run_folder{folder.path(), 3}};
  CHECK(run.driver.run());
  return contents(folder.path());
}

}  // namespace

TEST_CASE("cuda trainer: reports every step in order, with the CPU's losses") {
  std::vector<std::int64_t> numbers;
  auto const got = step_losses<in_float>(small_options(), &numbers);
  auto const want = step_losses<cpu::context<float>>(small_options());
  REQUIRE(got.size() == want.size());
  CHECK(numbers == std::vector<std::int64_t>{1, 2, 3, 4, 5, 6});
  for (std::size_t i = 0; i < got.size(); ++i) CHECK(got[i] == doctest::Approx(want[i]).epsilon(1e-3));
}

TEST_CASE("cuda trainer: a stopped and resumed run leaves the files of one that never stopped") {
  auto const want = uninterrupted(small_options());
  REQUIRE(want.size() == 4);  // two epochs, best and last
  CHECK(uninterrupted(small_options()) == want);
  scratch_folder const folder;
  std::atomic<bool> stop{false};
  trainer_options o = small_options();
  o.stop = &stop;
  o.on_step = [&](step_report const& s) {
    if (s.step == 2) stop = true;
  };
  CHECK_FALSE(small_run<float, in_bf16>{mapped(), o, run_folder{folder.path(), 3}}.driver.run());
  small_run<float, in_bf16> second{mapped(), small_options(), run_folder{folder.path(), 3}};
  second.driver.resume(folder / "last.safetensors");
  CHECK(second.driver.run());
  CHECK(contents(folder.path()) == want);
}

TEST_CASE("cuda trainer: a picture that is not finite ends the run, which names the step and the picture") {
  trainer_options const o = small_options();
  auto const spoilt = [](picture p, label_map_data* map, random_stream& stream, std::span<float> out) {
    auto const crop = training_transform(std::move(p), map, augmentation{}, 16, 16, stream, out);
    out[5] = std::numeric_limits<float>::quiet_NaN();
    return crop;
  };
  small_run<float, in_float> run{mapped(), o, {}, 1, spoilt};
  std::string text;
  try {
    run.driver.run();
  } catch (divergence_error const& e) {
    text = e.what();
  }
  CHECK(text.find("the loss is not finite in epoch 1, step 1 (micro-batch 1)") != std::string::npos);
  CHECK(text.find("first bad picture of the batch: 0") != std::string::npos);
  CHECK(text.find("first bad weight") == std::string::npos);
}
