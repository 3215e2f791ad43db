// A training run over the GPU on several processes, as threads whose messages go through the host.
#include <dm2/cuda/step_engine.cuh>
#include <dm2/train/trainer.hpp>

#include <doctest/doctest.h>

#include "comm/thread_processes.hpp"
#include "io/scratch.hpp"
#include "train/small_run.hpp"

#include <atomic>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

template <class Context>
std::map<std::string, std::string> files_of(int processes, trainer_options const& o) {
  scratch_folder const folder;
  as_processes(processes, [&](communicator& self) {
    small_run<float, Context> run{mapped(), o, run_folder{folder.path(), 3}, 1, small_transform(), self};
    CHECK(run.driver.run());
  });
  return contents(folder.path());
}

/// 24 pictures in batches of 4: steps of 4 and 2 micro-batches.
trainer_options options(optimizer_kind kind, double clip) {
  trainer_options o = small_options();
  o.accumulate = 4;
  o.optimizer.kind = kind;
  o.optimizer.clip_norm = clip;
  o.rates.epochs = 2;
  return o;
}

}  // namespace

TEST_CASE_TEMPLATE("cuda trainer: a run leaves the same bytes on any number of processes", Context,
                   cuda::context<cuda::precision::bf16>, cuda::context<cuda::precision::fp32>) {
  for (auto const kind : {optimizer_kind::lion, optimizer_kind::adamw}) {
    trainer_options const o = options(kind, kind == optimizer_kind::lion ? 0 : 0.3);
    auto const want = files_of<Context>(1, o);
    REQUIRE(want.size() == 4);
    for (int const processes : {2, 3}) {
      CAPTURE(processes);
      CHECK(files_of<Context>(processes, o) == want);
    }
  }
}

TEST_CASE("cuda trainer: what diverges on one process ends all of them with one text") {
  std::vector<std::string> texts(2);
  std::atomic<int> calls{0};
  sample_transform const bad = [&](picture p, label_map_data* map, random_stream& stream, std::span<float> out) {
    auto const crop = training_transform(std::move(p), map, augmentation{}, 16, 16, stream, out);
    if (++calls == 9) out[5] = std::numeric_limits<float>::quiet_NaN();
    return crop;
  };
  as_processes(2, [&](communicator& self) {
    using context = cuda::context<cuda::precision::bf16>;
    small_run<float, context> run{mapped(), options(optimizer_kind::lion, 0), {}, 1, bad, self};
    try {
      run.driver.run();
    } catch (divergence_error const& e) {
      texts[static_cast<std::size_t>(self.rank())] = e.what();
    }
  });
  CHECK(texts[0].find("is not finite in epoch 1") != std::string::npos);
  CHECK(texts[1] == texts[0]);
}
