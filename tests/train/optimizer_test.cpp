#include <dm2/train/ema.hpp>
#include <dm2/train/optimizer.hpp>
#include <dm2/train/schedule.hpp>

#include "support/configurations.hpp"
#include "support/golden.hpp"

#include <nlohmann/json.hpp>

#include <doctest/doctest.h>

#include <fstream>
#include <random>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

using backend = cpu::context<double>;

struct numbers {
  std::mt19937 random{11};
  model<little, backend> net{1, backend{2}};
  std::vector<double> gradients = fill(state_extent<little>);

  numbers() {
    for (parameter_entry const& e : net.table())
      if (e.kind != entry_kind::counter)
        for (double& v : net.state().subspan(e.offset, e.size)) v = draw();
  }
  double draw() { return std::normal_distribution<double>{}(random); }
  std::vector<double> fill(std::size_t n) {
    std::vector<double> v(n, 0.0);
    for (parameter_entry const& e : parameter_table<little>)
      if (e.kind == entry_kind::parameter)
        for (std::size_t i = 0; i < e.size; ++i) v[e.offset + i] = draw();
    return v;
  }
};

}  // namespace

TEST_CASE("schedule: equals the reference's 300 epochs") {
  std::ifstream in{DM2_GOLDEN_DIR "/learning_rate.json"};
  auto const want = nlohmann::json::parse(in).get<std::vector<double>>();
  REQUIRE(want.size() == 300);
  for (int e = 0; e < 300; ++e)
    CHECK(std::abs(schedule{}.rate(e) - want[std::size_t(e)]) <= 1e-12 * want[std::size_t(e)]);
  CHECK(schedule{}.rate(300) == doctest::Approx(1e-6));
  CHECK(schedule{.warmup = 1, .epochs = 5}.rate(0) == 1e-4);
  CHECK(schedule{.warmup = 0, .epochs = 5}.rate(0) == 1e-4);
}

TEST_CASE("optimizer: AdamW equals its definition over several steps") {
  numbers n;
  std::vector<double> p(n.net.state().begin(), n.net.state().end()), m(p.size(), 0.0), v(p.size(), 0.0);
  optimizer<little, backend> o{{.kind = optimizer_kind::adamw, .weight_decay = 0.1, .beta2 = 0.999}};
  for (int t = 1; t <= 3; ++t) {
    auto gradients = n.fill(p.size());
    for (parameter_entry const& e : n.net.table()) {
      if (e.kind != entry_kind::parameter) continue;
      for (std::size_t i = e.offset; i < e.offset + e.size; ++i) {
        m[i] = 0.9 * m[i] + 0.1 * gradients[i];
        v[i] = 0.999 * v[i] + 0.001 * gradients[i] * gradients[i];
        double const mean = m[i] / (1 - std::pow(0.9, t)), square = v[i] / (1 - std::pow(0.999, t));
        p[i] = p[i] * (1 - 0.01 * 0.1) - 0.01 * mean / (std::sqrt(square) + 1e-8);
      }
    }
    o.step(n.net, gradients, 0.01);
  }
  CHECK(relative_error(n.net.state(), p) < 1e-13);
}

TEST_CASE("optimizer: statistics and parameters that nothing reads do not move") {
  for (auto kind : {optimizer_kind::lion, optimizer_kind::adamw}) {
    numbers n;
    std::vector<double> const before(n.net.state().begin(), n.net.state().end());
    std::fill(n.gradients.begin(), n.gradients.end(), 1.0);
    optimizer<little, backend>{{.kind = kind, .shared_pairs = true}}.step(n.net, n.gradients, 0.1);
    int still = 0;
    for (parameter_entry const& e : n.net.table()) {
      if (e.kind != entry_kind::statistic && e.kind != entry_kind::unused) continue;
      for (std::size_t i = e.offset; i < e.offset + e.size; ++i) CHECK(n.net.state()[i] == before[i]);
      ++still;
    }
    CHECK(still == 8);
  }
}

TEST_CASE("optimizer: clipping scales the whole gradient to the given norm, and only down") {
  numbers n;
  double square = 0;
  for (double g : n.gradients) square += g * g;
  for (double limit : {0.5, 1e6}) {
    auto gradients = n.gradients;
    optimizer<little, backend> o{{.clip_norm = limit}};
    CHECK(o.step(n.net, gradients, 0.0) == doctest::Approx(std::sqrt(square)).epsilon(1e-12));
    double const factor = limit < 1 ? limit / (std::sqrt(square) + 1e-6) : 1.0;
    for (std::size_t i = 0; i < gradients.size(); ++i)
      CHECK(gradients[i] == doctest::Approx(factor * n.gradients[i]).epsilon(1e-12));
  }
}

TEST_CASE("ema: averages every floating entry, and swap exchanges it with the state") {
  numbers n;
  ema average{n.net, 0.75};
  std::vector<double> want(n.net.state().begin(), n.net.state().end());
  for (int t = 0; t < 3; ++t) {
    for (parameter_entry const& e : n.net.table())
      if (e.kind != entry_kind::counter)
        for (double& v : n.net.state().subspan(e.offset, e.size)) v += n.draw();
    for (std::size_t i = 0; i < want.size(); ++i) want[i] -= 0.25 * (want[i] - n.net.state()[i]);
    average.step(n.net);
  }
  CHECK(relative_error(average.state(), want) < 1e-14);
  std::vector<double> const state(n.net.state().begin(), n.net.state().end());
  average.swap(n.net);
  CHECK(relative_error(n.net.state(), want) < 1e-14);
  average.swap(n.net);
  CHECK(std::equal(state.begin(), state.end(), n.net.state().begin()));
}

TEST_CASE("ema: a decay of 0 makes the average the state, to the last bit") {
  numbers n;
  ema average{n.net, 0.0};
  for (double& v : n.net.state()) v = 1e9 * n.draw();
  average.step(n.net);
  CHECK(std::equal(average.state().begin(), average.state().end(), n.net.state().begin()));
  CHECK(average.steps() == 1);
}

TEST_CASE("ema: with a warm-up the first steps weigh more") {
  numbers n;
  ema average{n.net, 0.9999, true};
  std::vector<double> want(average.state().begin(), average.state().end());
  for (double& v : n.net.state()) v += 1;
  average.step(n.net);
  double const decay = 2.0 / 11;
  for (std::size_t i = 0; i < want.size(); ++i) want[i] = decay * want[i] + (1 - decay) * n.net.state()[i];
  CHECK(relative_error(average.state(), want) < 1e-14);
}
