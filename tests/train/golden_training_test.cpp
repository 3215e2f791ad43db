#include <dm2/train/ema.hpp>
#include <dm2/train/optimizer.hpp>
#include <dm2/train/schedule.hpp>
#include <dm2/train/sparse_target.hpp>

#include "model/golden_model.hpp"

#include <doctest/doctest.h>

#include <string>
#include <type_traits>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

/// A golden run of optimizer steps, each of two accumulated micro-batches.
template <config C, class T>
struct golden_run {
  using scalar = T;
  using backend = cpu::context<T>;
  static constexpr bool published = C.variant == mixer_variant::published;

  golden file{published ? "training_published.safetensors" : "training_bidirectional.safetensors"};
  model<C, backend> net{1, backend{2}};
  int steps = published ? 4 : 3, batch = published ? 4 : 2;
  training_pass<C, backend> pass{net, batch};
  optimizer<C, backend> rule{optimizer_options{.shared_pairs = published}};
  std::vector<double> losses, expected;

  golden_run() { load_parameters(net, file, "init/"); }

  void micro_batch(std::string const& tag) {
    auto const pictures = file.get<T>(tag + "/image");
    auto const maps = file.get<float>(tag + "/top5");
    auto const crops = file.get(tag + "/crop");
    auto const labels = file.get<std::int64_t>(tag + "/label"), corners = file.get<std::int64_t>(tag + "/box");
    sparse_targets<T> targets{C.classes};
    std::size_t const one = maps.size() / std::size_t(batch);
    for (std::size_t b = 0; b < std::size_t(batch); ++b)
      targets.add(label_map<float>{std::span{maps}.subspan(b * one, one), 9, 9},
                  {crops[4 * b], crops[4 * b + 1], crops[4 * b + 2], crops[4 * b + 3]}, int(labels[b]),
                  sizes<C>::stem.grid_height(), sizes<C>::stem.grid_width(), crop_convention::published);
    pass.forward(pictures, {int(corners[0]), int(corners[1]), int(corners[2]), int(corners[3])});
    losses.push_back(pass.loss(targets.rows(), 0.5));
    expected.push_back(file.get(tag + "/loss").front());
    pass.backward();
  }

  void run(ema<C, backend>& average) {
    schedule const rates{.base = 1e-3, .warmup = 2, .epochs = steps + 2};
    for (int s = 0; s < steps; ++s) {
      std::string const tag = "step" + std::to_string(s);
      CHECK(rates.rate(s) == doctest::Approx(file.get(tag + "/lr").front()).epsilon(1e-12));
      pass.clear_gradients();
      for (int m = 0; m < 2; ++m) micro_batch(tag + "/micro" + std::to_string(m));
      rule.step(net, pass.gradients(), rates.rate(s));
      average.step(net);
    }
  }
};

}  // namespace

TEST_CASE_TEMPLATE("training: a whole run ends with the reference's parameters, momenta and averages", R,
                   golden_run<slim, double>, golden_run<bidirectional, double>) {
  R r;
  ema average{r.net, 0.9};
  r.run(average);
  CHECK(relative_error(r.losses, r.expected) < 1e-9);
  for (parameter_entry const& e : r.net.table()) {
    std::string const name{e.name};
    CAPTURE(name);
    if (e.kind == entry_kind::counter) {
      CHECK(r.net.counters()[e.offset] == r.file.template get<std::int64_t>("final/" + name).front());
      continue;
    }
    auto const part = [&](auto whole) { return whole.subspan(e.offset, e.size); };
    CHECK(relative_error(part(r.net.state()), r.file.get("final/" + name)) < 1e-7);
    CHECK(relative_error(part(average.state()), r.file.get("ema/" + name)) < 1e-7);
    if (e.kind != entry_kind::statistic)
      CHECK(relative_error(part(r.rule.momentum()), r.file.get("momentum/" + name)) < 1e-7);
  }
}

TEST_CASE_TEMPLATE("training: in float the losses of a run are the reference's", R, golden_run<slim, float>,
                   golden_run<bidirectional, float>) {
  R r;
  ema average{r.net, 0.9};
  r.run(average);
  REQUIRE(r.losses.size() == r.expected.size());
  for (std::size_t i = 0; i < r.losses.size(); ++i)
    CHECK(std::abs(r.losses[i] - r.expected[i]) <= 1e-4 * std::abs(r.expected[i]));
}
