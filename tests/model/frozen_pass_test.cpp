// A training pass over a model whose first layers stay as they are.
#include <dm2/model/model.hpp>
#include <dm2/model/training_pass.hpp>

#include "support/compare.hpp"
#include "support/configurations.hpp"
#include "support/random.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

constexpr int batch = 3;
constexpr mix_box box{0, 1, 1, 2};

/// A model at random numbers, pictures, targets, and what a pass over them with so many frozen layers leaves.
template <config C>
struct frozen_case {
  using backend = cpu::context<double>;
  random_source random{5};
  model<C, backend> net{batch, backend{2}};
  std::vector<double> pictures = random.normal(std::size_t(batch) * net.pixels);
  std::vector<double> target = random.uniform(std::size_t(batch) * (2 + sizes<C>::tokens) * C.classes, 0, 1);

  frozen_case() {
    for (parameter_entry const& e : net.table()) {
      if (e.kind == entry_kind::counter) continue;
      auto values = random.normal(e.size, 0.3);
      bool const positive = e.kind == entry_kind::statistic && e.name.ends_with("var");
      for (double& v : values) v = positive ? 0.5 + std::abs(v) : e.role == parameter_role::norm ? 1 + v : v;
      std::copy(values.begin(), values.end(), net.state().begin() + std::ptrdiff_t(e.offset));
    }
    for (std::int64_t& n : net.counters()) n = 7;
  }
  double loss(training_pass<C, backend>& pass) {
    pass.forward(pictures, box);
    return pass.loss(target);
  }
  std::vector<double> gradients(int frozen) {
    training_pass<C, backend> pass{net, batch, frozen};
    loss(pass);
    pass.backward();
    return {pass.gradients().begin(), pass.gradients().end()};
  }
};

template <config C>
struct of {
  static constexpr config configuration = C;
};
/// The slope of the loss along a random direction of an entry, by central differences; `along` is the gradient's.
template <config C>
double slope(frozen_case<C>& f, training_pass<C, cpu::context<double>>& pass, parameter_entry const& e,
             std::vector<double> const& gradients, double& along) {
  auto const direction = f.random.normal(e.size);
  along = 0;
  for (std::size_t i = 0; i < e.size; ++i) along += direction[i] * gradients[e.offset + i];
  double const h = 1e-5;
  double losses[2];
  for (int side = 0; side < 2; ++side) {
    auto const move = [&](double by) {
      for (std::size_t i = 0; i < e.size; ++i) f.net.state()[e.offset + i] += by * direction[i];
    };
    move(side == 0 ? -h : h);
    losses[side] = f.loss(pass);
    move(side == 0 ? h : -h);
  }
  return (losses[1] - losses[0]) / (2 * h);
}

}  // namespace

TEST_CASE_TEMPLATE("frozen pass: with the stem frozen the forward is the evaluation's, and no statistic moves", F,
                   of<little>, of<wide>) {
  constexpr config C = F::configuration;
  frozen_case<C> f;
  std::vector<double> const before(f.net.state().begin(), f.net.state().end());
  training_pass<C, cpu::context<double>> pass{f.net, batch, 1};
  pass.forward(f.pictures);
  std::vector<double> cls(std::size_t(batch) * C.classes), patches(cls.size() * sizes<C>::tokens);
  f.net.forward_patches(f.pictures, cls, patches);
  CHECK(relative_error(pass.class_logits(), cls) < 1e-12);
  CHECK(relative_error(pass.patch_logits(), patches) < 1e-12);
  CHECK(std::equal(before.begin(), before.end(), f.net.state().begin()));
  CHECK(std::all_of(f.net.counters().begin(), f.net.counters().end(), [](auto n) { return n == 7; }));
}

TEST_CASE_TEMPLATE("frozen pass: gradients of the other layers are the loss's slopes, those of frozen ones zero", F,
                   of<little>, of<wide>) {
  constexpr config C = F::configuration;
  for (int const frozen : {1, 2, C.depth, C.depth + 1}) {
    CAPTURE(frozen);
    frozen_case<C> f;
    auto const gradients = f.gradients(frozen);
    training_pass<C, cpu::context<double>> pass{f.net, batch, frozen};
    for (parameter_entry const& e : f.net.table()) {
      if (e.kind == entry_kind::counter) continue;
      CAPTURE(e.name);
      auto const own = std::span{gradients}.subspan(e.offset, e.size);
      if (e.kind != entry_kind::parameter || e.layer < frozen) {
        CHECK(std::count(own.begin(), own.end(), 0.0) == std::ptrdiff_t(e.size));
        continue;
      }
      double along = 0;
      double const want = slope(f, pass, e, gradients, along);
      CHECK(std::abs(along - want) <= 1e-7 + 1e-6 * std::abs(want));
      CHECK(std::any_of(own.begin(), own.end(), [](double v) { return v != 0; }));
    }
  }
}

TEST_CASE_TEMPLATE("frozen pass: what is trained has the same gradients, to the last bit, however much below is frozen",
                   F, of<little>, of<wide>) {
  constexpr config C = F::configuration;
  frozen_case<C> f;
  auto const stem_alone = f.gradients(1);
  for (int frozen = 2; frozen <= C.depth + 1; ++frozen) {
    auto const gradients = f.gradients(frozen);
    for (parameter_entry const& e : f.net.table())
      if (e.kind == entry_kind::parameter && e.layer >= frozen)
        CHECK(std::equal(gradients.begin() + std::ptrdiff_t(e.offset),
                         gradients.begin() + std::ptrdiff_t(e.offset + e.size),
                         stem_alone.begin() + std::ptrdiff_t(e.offset)));
  }
}

TEST_CASE("frozen pass: numbers out of range, and the pictures' gradient past a frozen stem, are refused") {
  frozen_case<little> f;
  using pass_type = training_pass<little, cpu::context<double>>;
  CHECK_THROWS_AS((pass_type{f.net, batch, -1}), std::invalid_argument);
  CHECK_THROWS_AS((pass_type{f.net, batch, little.depth + 2}), std::invalid_argument);
  pass_type pass{f.net, batch, 1};
  f.loss(pass);
  std::vector<double> dpictures(f.pictures.size(), 3);
  CHECK_THROWS_AS(pass.backward(dpictures), std::logic_error);
  CHECK(std::count(dpictures.begin(), dpictures.end(), 3.0) == std::ptrdiff_t(dpictures.size()));
  pass.backward();
}
