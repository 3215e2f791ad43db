// Accuracy and loss of single samples, and which loaders evaluate takes.
#include <dm2/train/evaluate.hpp>

#include "support/random.hpp"
#include "train/small_run.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <stdexcept>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

/// The small configuration with `classes` classes.
template <int Classes>
constexpr config small_with() {
  config c = small_config;
  c.classes = Classes;
  return c;
}

loader evaluation_loader(image_extent size, loading mode = loading::evaluation) {
  return {plain(), {.mode = mode, .batch = 5, .threads = 1}, evaluation_sample_transform(size)};
}

}  // namespace

TEST_CASE("evaluation: a class that is not among the logits is refused before anything is read or counted") {
  std::vector<float> const all{0.f, 1.f, 2.f, 99.f};
  auto const three = std::span<float const>{all}.first(3);
  evaluation e;
  int const most = std::numeric_limits<int>::max(), least = std::numeric_limits<int>::min();
  for (int const label : {-1, 3, 10, most, least}) {
    CAPTURE(label);
    CHECK_THROWS_AS(e.add(three, label), shape_error);
  }
  CHECK_THROWS_WITH_AS(e.add(three, 7), "evaluation.add.label: got class 7, expected 0..2", shape_error);
  CHECK_THROWS_WITH_AS(e.add(three.first(0), 0), "evaluation.add.label: got class 0, but there are none", shape_error);
  CHECK(e.samples == 0);
  CHECK(e.loss_sum == 0);
  e.add(three, 2);
  CHECK((e.samples == 1 && e.top1 == 1 && e.top5 == 1));
}

TEST_CASE("evaluation: ranks and losses are those of sorted logits and a plain softmax") {
  random_source random{31};
  for (int const classes : {1, 2, 5, 6, 11}) {
    CAPTURE(classes);
    evaluation e;
    std::size_t top1 = 0, top5 = 0;
    double loss = 0;
    for (int label = 0; label < classes; ++label) {
      auto const logits = random.normal<double>(std::size_t(classes));
      double sum = 0;
      for (double const l : logits) sum += std::exp(l);
      double const right = logits[std::size_t(label)];
      loss -= std::log(std::exp(right) / sum);
      auto const rank = std::count_if(logits.begin(), logits.end(), [&](double l) { return l > right; });
      top1 += rank < 1 ? 1 : 0;
      top5 += rank < 5 ? 1 : 0;
      e.add(std::span<double const>{logits}, label);
    }
    CHECK(e.samples == std::size_t(classes));
    CHECK(e.top1 == top1);
    CHECK(e.top5 == top5);
    CHECK(std::abs(e.loss_sum - loss) <= 1e-12 * (1 + loss));
  }
}

TEST_CASE("evaluation: among logits that are no numbers none is right, and the loss is none") {
  float const nan = std::numeric_limits<float>::quiet_NaN();
  for (int place = 0; place < 3; ++place) {
    std::vector<float> logits{1.f, 3.f, 2.f};
    logits[std::size_t(place)] = nan;
    evaluation e;
    e.add(std::span<float const>{logits}, 1);
    CHECK(e.top1 == 0);
    CHECK(std::isnan(e.loss()));
  }
}

TEST_CASE("evaluate: a loader in training mode, of other pictures or of other classes is refused with both values") {
  using context = cpu::context<float>;
  model<small_config, context> net{5, context{1}};
  loader training = evaluation_loader({16, 16}, loading::training), larger = evaluation_loader({24, 16}),
         fitting = evaluation_loader({16, 16});
  CHECK_THROWS_WITH_AS(
      evaluate(net, training),
      "evaluate: the loader is in training mode, expected loading::evaluation, which leaves no sample out",
      std::invalid_argument);
  CHECK_THROWS_WITH_AS(evaluate(net, larger), "evaluate: the loader gives pictures of 24 x 16, the model takes 16 x 16",
                       shape_error);
  model<small_with<2>(), context> two{5, context{1}};
  CHECK_THROWS_WITH_AS(evaluate(two, fitting), "evaluate: the loader has 3 classes, the model 2", shape_error);
  model<small_with<4>(), context> four{5, context{1}};
  CHECK_THROWS_WITH_AS(evaluate(four, fitting), "evaluate: the loader has 3 classes, the model 4", shape_error);
  CHECK(evaluate(net, fitting).samples == plain().size());
}
