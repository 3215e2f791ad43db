// What does not fit together is found when a trainer is made, and named with both values.
#include <dm2/train/trainer.hpp>

#include "train/small_run.hpp"

#include <doctest/doctest.h>

#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>

using namespace dm2;
using namespace dm2::test;

namespace {

using context = cpu::context<float>;
static_assert(!std::is_move_constructible_v<trainer<small_config, context>>);
static_assert(!std::is_move_constructible_v<training_pass<small_config, context>>);
static_assert(!std::is_move_constructible_v<loader>);

constexpr config four_classes() {
  config c = small_config;
  c.classes = 4;
  return c;
}

/// What a trainer of configuration C says of its arguments; empty where it takes them.
template <config C = small_config>
std::string complaint(trainer_options const& o, loader& training, loader* validation = nullptr) {
  model<C, context> net{4, context{1}};
  try {
    trainer<C, context> const made{net, o, training, validation, run_folder{}};
  } catch (std::invalid_argument const& e) {
    return e.what();
  }
  return {};
}

loader small_loader(loading mode, image_extent size = {16, 16}, int batch = 4, dataset const& set = plain()) {
  return {set, {.mode = mode, .batch = batch, .threads = 1}, evaluation_sample_transform(size)};
}

}  // namespace

TEST_CASE("trainer: loaders of another batch, mode, size or number of classes are refused") {
  loader training = small_loader(loading::training), evaluation = small_loader(loading::evaluation);
  trainer_options const o = small_options();
  CHECK(complaint(o, training, &evaluation).empty());

  loader batch = small_loader(loading::training, {16, 16}, 3), broad = small_loader(loading::training, {16, 24}),
         high = small_loader(loading::evaluation, {32, 16});
  CHECK(complaint(o, batch) == "trainer: the options say batches of 4, the training loader gives 3");
  CHECK(complaint(o, broad) == "trainer: the training loader gives pictures of 16 x 24, the model takes 16 x 16");
  CHECK(complaint(o, training, &high) ==
        "trainer: the validation loader gives pictures of 32 x 16, the model takes 16 x 16");
  CHECK(complaint(o, evaluation) ==
        "trainer: the training loader is in evaluation mode, expected loading::training, which shuffles");
  CHECK(complaint(o, training, &training) ==
        "trainer: the validation loader is in training mode, expected loading::evaluation, which leaves no sample out");
  CHECK(complaint<four_classes()>(o, training) == "trainer: the training loader has 3 classes, the model 4");

  loader more{mapped(), {.batch = 4, .threads = 1, .label_map_classes = 5}, training_sample_transform({16, 16})};
  CHECK(complaint(o, more) == "trainer: the training loader lets label maps name 5 classes, the model has 3");
}

TEST_CASE("trainer: options out of range are refused by name") {
  loader training = small_loader(loading::training);
  auto const with = [&](auto change) {
    trainer_options o = small_options();
    change(o);
    return complaint(o, training);
  };
  double const nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  CHECK(with([](auto&) {}).empty());
  CHECK(with([](auto& o) { o.batch = 0; }) == "trainer: batch is 0, expected at least 1");
  CHECK(with([](auto& o) { o.accumulate = -1; }) == "trainer: accumulate is -1, expected at least 1");
  CHECK(with([](auto& o) { o.smoothing = 1.5; }) == "trainer: smoothing is 1.5, expected 0 to 1");
  CHECK(with([&](auto& o) { o.smoothing = nan; }) == "trainer: smoothing is nan, expected 0 to 1");
  CHECK(with([](auto& o) { o.stop_after = -1; }).find("stop_after is -1") != std::string::npos);
  CHECK(with([](auto& o) { o.checkpoint_steps = -2; }).find("checkpoint_steps is -2") != std::string::npos);
  CHECK(with([](auto& o) { o.rates.base = -1e-3; }) == "schedule: base is -0.001, expected a number of at least 0");
  CHECK(with([&](auto& o) { o.rates.floor = infinity; }).find("schedule: floor is inf") != std::string::npos);
  CHECK(with([](auto& o) { o.rates.warmup = -1; }).find("schedule: warmup is -1") != std::string::npos);
  CHECK(with([](auto& o) { o.ema_decay = 1; }) == "ema: decay is 1, expected at least 0 and below 1");
  CHECK(with([&](auto& o) { o.ema_decay = nan; }).find("ema: decay is nan") != std::string::npos);
  CHECK(with([](auto& o) { o.optimizer.beta1 = 1; }) == "optimizer: beta1 is 1, expected at least 0 and below 1");
  CHECK(with([](auto& o) { o.optimizer.beta2 = -0.1; }).find("beta2 is -0.1") != std::string::npos);
  CHECK(with([](auto& o) { o.optimizer.weight_decay = -1; }).find("weight_decay is -1") != std::string::npos);
  CHECK(with([&](auto& o) { o.optimizer.clip_norm = nan; }).find("clip_norm is nan") != std::string::npos);
  CHECK(with([](auto& o) { o.optimizer.eps = 0; }).empty());  // Lion has none
  CHECK(with([](auto& o) { o.optimizer = {.kind = optimizer_kind::adamw, .eps = 0}; }) ==
        "optimizer: eps is 0, expected a number above 0");
}

TEST_CASE("step_engine: a batch whose lists disagree with its size is refused") {
  model<small_config, context> net{1, context{1}};
  initialise(net, 1);
  optimizer<small_config, context> rule;
  ema<small_config, context> average{net};
  step_engine<small_config, context> engine{net, rule, average, {.batch = 2, .accumulate = 1}};
  CHECK_THROWS_AS(engine.finish_step(0.1), std::logic_error);
  batch b;
  b.height = b.width = 16;
  b.resize(2, false);
  engine.micro_batch(b, {}, 1);
  engine.finish_round(1, {});
  batch few = b, one = b, wrong = b, cut = b;
  few.labels.resize(1);
  one.resize(1, false);
  wrong.labels[1] = 3;
  cut.pictures.resize(7);
  CHECK_THROWS_WITH_AS(engine.micro_batch(few, {}, 1), "batch.labels: got 1, expected 2", shape_error);
  CHECK_THROWS_WITH_AS(engine.micro_batch(one, {}, 1), "batch.size: got 1, expected 2", shape_error);
  CHECK_THROWS_WITH_AS(engine.micro_batch(wrong, {}, 1), "sparse_targets.label: got class 3, expected 0..2",
                       shape_error);
  CHECK_THROWS_AS(engine.micro_batch(cut, {}, 1), shape_error);
  engine.finish_step(0.1);
}
