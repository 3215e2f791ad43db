// Training on the GPU: the golden runs.
#include <dm2/cuda/step_engine.cuh>
#include <dm2/train/schedule.hpp>

#include <doctest/doctest.h>

#include "model/golden_model.hpp"

#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

using in_float = cuda::context<cuda::precision::fp32>;
using in_bf16 = cuda::context<cuda::precision::bf16>;

template <config C>
struct configured {
  static constexpr config value = C;
};

/// Micro-batch `tag` of a golden run.
template <config C>
batch golden_batch(golden const& file, std::string const& tag, int count) {
  batch b;
  b.height = C.image.height;
  b.width = C.image.width;
  b.resize(count, true);
  b.pictures = file.get<float>(tag + "/image");
  auto const maps = file.get<float>(tag + "/top5");
  auto const crops = file.get(tag + "/crop");
  auto const labels = file.get<std::int64_t>(tag + "/label");
  std::size_t const n = std::size_t(count), one = maps.size() / n;
  for (std::size_t i = 0; i < n; ++i) {
    b.labels[i] = int(labels[i]);
    b.crops[i] = {crops[4 * i], crops[4 * i + 1], crops[4 * i + 2], crops[4 * i + 3]};
    b.maps[i] = {9, 9, {maps.begin() + std::ptrdiff_t(i * one), maps.begin() + std::ptrdiff_t((i + 1) * one)}};
  }
  return b;
}

/// The losses of a golden run of a few steps, and those that the engine finds.
template <config C, class Context>
struct golden_steps {
  static constexpr bool published = C.variant == mixer_variant::published;
  static constexpr int steps = published ? 4 : 3, count = published ? 4 : 2;
  golden file{published ? "training_published.safetensors" : "training_bidirectional.safetensors"};
  model<C, Context> net;
  optimizer<C, Context> rule{optimizer_options{.shared_pairs = published}};
  std::vector<double> losses, expected;

  void run() {
    load_parameters(net, file, "init/");
    ema<C, Context> average{net, 0.9};
    step_engine<C, Context> engine{net, rule, average, {.batch = count, .accumulate = 2}};
    schedule const rates{.base = 1e-3, .warmup = 2, .epochs = steps + 2};
    auto const collect = [&](bool wait) {
      while (auto const r = engine.next_result(wait)) losses.insert(losses.end(), r->losses.begin(), r->losses.end());
    };
    for (int s = 0; s < steps; ++s) {
      for (int m = 0; m < 2; ++m) {
        std::string const tag = "step" + std::to_string(s) + "/micro" + std::to_string(m);
        auto const corners = file.get<std::int64_t>(tag + "/box");
        engine.micro_batch(golden_batch<C>(file, tag, count),
                           {int(corners[0]), int(corners[1]), int(corners[2]), int(corners[3])}, 0.5);
        engine.finish_round(1, {});
        expected.push_back(file.get(tag + "/loss").front());
      }
      engine.finish_step(rates.rate(s));
      collect(false);
    }
    collect(true);
    engine.pull();
    check_averages(average);
  }
  void check_averages(ema<C, Context>& average) {
    for (parameter_entry const& e : net.table()) {
      std::string const name{e.name};
      CAPTURE(name);
      if (e.kind == entry_kind::counter)
        CHECK(net.counters()[e.offset] == file.template get<std::int64_t>("final/" + name).front());
      else if (e.kind == entry_kind::statistic)
        CHECK(relative_error(average.state().subspan(e.offset, e.size), file.get("ema/" + name)) < 1e-3);
    }
  }
};

}  // namespace

TEST_CASE_TEMPLATE("cuda step_engine: in float the losses of the golden runs are the reference's", R, configured<slim>,
                   configured<bidirectional>) {
  golden_steps<R::value, in_float> r;
  r.run();
  REQUIRE(r.losses.size() == r.expected.size());
  for (std::size_t i = 0; i < r.losses.size(); ++i)
    CHECK(std::abs(r.losses[i] - r.expected[i]) <= 1e-4 * std::abs(r.expected[i]));
}

TEST_CASE("cuda step_engine: in bfloat16 the losses of a golden run stay near the reference's") {
  golden_steps<slim, in_bf16> r;
  r.run();
  REQUIRE(r.losses.size() == r.expected.size());
  for (std::size_t i = 0; i < r.losses.size(); ++i)
    CHECK(std::abs(r.losses[i] - r.expected[i]) <= 2e-2 * std::abs(r.expected[i]));
}
