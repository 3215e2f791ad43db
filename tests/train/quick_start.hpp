/// @file
/// The training that ./demo starts, without its files: the stored recipe, the pictures that make_shapes draws, in the
/// order and with the crops that the loader gives them.
#pragma once

#include <dm2/core/random.hpp>
#include <dm2/data/augment/augmentation.hpp>
#include <dm2/data/batch.hpp>
#include <dm2/data/epoch_order.hpp>
#include <dm2/data/training_transform.hpp>
#include <dm2/data/worker_threads.hpp>
#include <dm2/io/half.hpp>
#include <dm2/model/model.hpp>
#include <dm2/train/ema.hpp>
#include <dm2/train/initialise.hpp>
#include <dm2/train/optimizer.hpp>
#include <dm2/train/schedule.hpp>
#include <dm2/train/step_engine.hpp>

#include <nlohmann/json.hpp>

#include "../examples/support/shapes/draw.hpp"
#include "../examples/support/shapes/label_map.hpp"

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace dm2::test {

/// The recipe's lines `name = value`; the values are such that TOML and JSON write them alike.
inline nlohmann::json read_recipe(std::string const& path) {
  std::ifstream in{path};
  REQUIRE(in.good());
  auto recipe = nlohmann::json::object();
  for (std::string line; std::getline(in, line);) {
    std::size_t const split = line.find(" = ");
    if (!line.starts_with('#') && split != line.npos)
      recipe[line.substr(0, split)] = nlohmann::json::parse(line.substr(split + 3));
  }
  return recipe;
}

/// What examples/recipes/shapes.toml says, in the library's terms.
struct quick_start {
  step_options step;
  optimizer_options optimizer;
  schedule rates;
  double decay = 0;
  augmentation augment;
  std::uint64_t seed = 0;
  std::size_t pictures = 6000;  ///< that make_shapes draws to train on

  quick_start() {
    auto const r = read_recipe(DM2_GOLDEN_DIR "/../../examples/recipes/shapes.toml");
    auto const number = [&](char const* name) { return r.at(name).get<double>(); };
    REQUIRE(r.size() == 22);
    REQUIRE((r.at("model") == "quick" && r.at("opt") == "adamw" && r.at("aa") == "none"));
    REQUIRE((r.at("token-label-crop") == "aligned" && r.at("mix-token") == false && r.at("model-ema-warmup") == true));
    step = {int(number("batch-size")), int(number("grad-accum-steps")), number("smoothing"), crop_convention::aligned};
    REQUIRE(step.accumulate == 1);
    optimizer = {.kind = optimizer_kind::adamw,
                 .weight_decay = number("weight-decay"),
                 .beta1 = r.at("opt-betas").at(0),
                 .beta2 = r.at("opt-betas").at(1),
                 .clip_norm = number("clip-grad")};
    rates = {number("lr"), number("warmup-lr"), number("min-lr"), int(number("warmup-epochs")), int(number("epochs"))};
    decay = number("model-ema-decay");
    augment.operations = 0;
    augment.area_min = r.at("scale").at(0);
    augment.area_max = r.at("scale").at(1);
    augment.erase = number("reprob");
    seed = r.at("seed");
  }

  /// Steps of an epoch.
  [[nodiscard]] std::size_t epoch_steps() const { return pictures / std::size_t(step.batch); }
};

/// Picture `sample` of the set into place i, from `random`: the set is in the order of its folders, one a class.
template <config C>
void draw_quick_sample(quick_start const& q, std::size_t sample, random_stream random, batch& to, std::size_t i) {
  namespace shapes = example::shapes;
  std::size_t const classes = shapes::classes.size();
  std::size_t label = 0, place = sample;
  for (std::size_t here = 0; place >= (here = (q.pictures - label + classes - 1) / classes); ++label) place -= here;
  std::size_t const index = label + place * classes;
  shapes::drawing d = shapes::draw_sample(0, shapes::part::training, index, C.image.height);
  random_stream scores{0, 3, index};
  to.maps[i] = shapes::draw_label_map(d, 16, scores);
  for (float& v : to.maps[i].values) v = half_to_float(float_to_half(v));  // as the files have them
  to.labels[i] = d.label;
  to.samples[i] = sample;
  to.crops[i] = training_transform(std::move(d.image), &to.maps[i], q.augment, C.image.height, C.image.width, random,
                                   to.picture_at(int(i)));
}

/// The first batches of a run's first epoch.
template <config C>
std::vector<batch> draw_quick_batches(quick_start const& q, std::size_t count) {
  REQUIRE(count <= q.epoch_steps());
  auto const order = epoch_permutation(q.pictures, q.seed, 0);
  std::vector<batch> all(count);
  for_each_index(count, 0, [&](std::size_t number) {
    batch& b = all[number];
    b.number = number;
    b.height = C.image.height;
    b.width = C.image.width;
    b.resize(q.step.batch, true);
    for (std::size_t i = 0; i < std::size_t(b.size); ++i) {
      std::size_t const sample = order[number * std::size_t(b.size) + i];
      draw_quick_sample<C>(q, sample, random_stream{q.seed, 0, sample}, b, i);
    }
  });
  return all;
}

/// A context of one thread, where it computes on the host.
template <class Context>
Context one_thread() {
  if constexpr (requires { Context{1}; })
    return Context{1};
  else
    return Context{};
}

/// The loss of each step over `batches`. `disturb` may change the state that training starts with.
template <config C, class Context>
std::vector<double> quick_losses(quick_start const& q, std::span<batch const> batches,
                                 std::function<void(std::span<float>)> const& disturb) {
  model<C, Context> net{1, one_thread<Context>()};
  initialise(net, q.seed);
  disturb(net.state());
  optimizer<C, Context> rule{q.optimizer};
  ema<C, Context> average{net, q.decay, true};
  step_engine<C, Context> engine{net, rule, average, q.step};
  std::vector<double> losses;
  auto const collect = [&](bool wait) {
    while (auto const r = engine.next_result(wait)) losses.push_back(r->losses.front());
  };
  for (std::size_t s = 0; s < batches.size(); ++s) {
    engine.micro_batch(batches[s], {}, 1);
    engine.finish_round(1, {0, std::int64_t(s), s});
    engine.finish_step(q.rates.rate(0));
    collect(false);
  }
  collect(true);
  return losses;
}

}  // namespace dm2::test
