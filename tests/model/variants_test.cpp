#include "golden_model.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

/// Shapes that no golden file has.
constexpr config no_convolution{.image = {8, 12},
                                .patch = 4,
                                .channels = 1,
                                .stem_width = 3,
                                .depth = 2,
                                .dim = 6,
                                .classes = 5,
                                .headdim = 3,
                                .d_state = 5,
                                .d_conv = 1,
                                .attn_layers = layers(0),
                                .attn_heads = 1,
                                .attn_head_dim = 7,
                                .attn_rotary = 0,
                                .attn_d_conv = 0};
constexpr config narrow_mlp{.image = {4, 4},
                            .patch = 4,
                            .stem_width = 4,
                            .depth = 1,
                            .dim = 5,
                            .mlp_dim = 3,
                            .classes = 2,
                            .expand = 1,
                            .headdim = 1,
                            .d_state = 1,
                            .d_conv = 5,
                            .groups = 5,
                            .attn_layers = layers(),
                            .variant = mixer_variant::bidirectional};
constexpr config attention_only{.image = {6, 2},
                                .patch = 2,
                                .stem_width = 2,
                                .depth = 2,
                                .dim = 4,
                                .mlp_dim = 6,
                                .classes = 3,
                                .headdim = 4,
                                .d_state = 2,
                                .attn_layers = layers(0, 1),
                                .attn_heads = 3,
                                .attn_head_dim = 5,
                                .attn_rotary = 4,
                                .attn_d_conv = 2};
/// 13 x 11 patches and the class token: three tiles of the scan, the last of them partial.
constexpr config many_tokens{.image = {26, 22},
                             .patch = 2,
                             .stem_width = 2,
                             .depth = 2,
                             .dim = 4,
                             .classes = 3,
                             .headdim = 4,
                             .d_state = 3,
                             .groups = 2,
                             .attn_layers = layers(1),
                             .attn_heads = 1,
                             .attn_head_dim = 4,
                             .attn_rotary = 4};

template <config C>
struct variant {
  static constexpr int batch = 3;
  using network = model<C, cpu::context<double>>;

  std::mt19937 random{7};
  network net{batch, cpu::context<double>{2}};
  std::vector<double> pictures = normal(std::size_t(batch) * network::pixels);
  std::vector<double> target = normal(std::size_t(batch) * (2 + sizes<C>::tokens) * network::classes);
  mix_box box{0, sizes<C>::stem.grid_height(), 0, (sizes<C>::stem.grid_width() + 1) / 2};
  training_pass<C, cpu::context<double>> pass{net, batch};

  variant() {
    for (parameter_entry const& e : net.table()) {
      if (e.kind == entry_kind::counter) continue;
      bool const scale = e.name.find("norm") != e.name.npos || e.name.find(".bn") != e.name.npos;
      double const spread = e.rank >= 2 ? 1 / std::sqrt(double(e.size) / e.shape[0]) : 0.3;
      auto const values = normal(e.size);
      for (std::size_t i = 0; i < e.size; ++i) {
        double const v = (scale ? 1.0 : 0.0) + (scale ? 0.2 : spread) * values[i];
        net.state()[e.offset + i] = e.name.ends_with("running_var") ? std::abs(v) + 0.5 : v;
      }
    }
  }
  std::vector<double> normal(std::size_t n) {
    std::normal_distribution<double> draw;
    std::vector<double> v(n);
    for (double& x : v) x = draw(random);
    return v;
  }
  double loss() {
    pass.forward(pictures, box);
    return pass.loss(target);
  }
  double slope(double& at) {
    double const keep = at, h = 1e-5 * std::max(1.0, std::abs(keep));
    at = keep + h;
    double const up = loss();
    at = keep - h;
    double const down = loss();
    at = keep;
    return (up - down) / (2 * h);
  }
};

}  // namespace

TEST_CASE_TEMPLATE("model: gradients of every shape of network match central differences", V, variant<no_convolution>,
                   variant<narrow_mlp>, variant<attention_only>, variant<many_tokens>) {
  V v;
  v.loss();
  std::vector<double> dpictures(v.pictures.size(), std::nan(""));
  v.pass.backward(dpictures);
  std::vector<double> const gradients(v.pass.gradients().begin(), v.pass.gradients().end());
  std::vector<double> got, want;
  for (parameter_entry const& e : v.net.table()) {
    if (e.kind != entry_kind::parameter) continue;
    for (std::size_t k = 0; k < std::min<std::size_t>(e.size, 3); ++k) {
      std::size_t const i = e.offset + v.random() % e.size;
      got.push_back(gradients[i]);
      want.push_back(v.slope(v.net.state()[i]));
    }
  }
  for (int k = 0; k < 20; ++k) {
    std::size_t const i = v.random() % v.pictures.size();
    got.push_back(dpictures[i]);
    want.push_back(v.slope(v.pictures[i]));
  }
  CHECK(relative_error(got, want) < 1e-6);
}

TEST_CASE("model: a picture's logits do not depend on its batch") {
  variant<many_tokens> v;
  std::vector<double> together(3 * 3), alone(3);
  v.net.forward(v.pictures, together);
  for (std::size_t b = 0; b < 3; ++b) {
    v.net.forward(std::span{v.pictures}.subspan(b * v.net.pixels, v.net.pixels), alone);
    CHECK(relative_error(alone, std::span{together}.subspan(b * 3, 3)) < 1e-13);
  }
}

TEST_CASE("model: class and patch logits make up the evaluation's") {
  variant<many_tokens> v;
  std::size_t const tokens = sizes<many_tokens>::tokens;
  std::vector<double> logits(9), cls(9), patches(9 * tokens);
  v.net.forward(v.pictures, logits);
  v.net.forward_patches(v.pictures, cls, patches);
  for (std::size_t b = 0; b < 3; ++b)
    for (std::size_t c = 0; c < 3; ++c) {
      double best = -1e300;
      for (std::size_t t = 0; t < tokens; ++t) best = std::max(best, patches[(b * tokens + t) * 3 + c]);
      CHECK(logits[b * 3 + c] == doctest::Approx(cls[b * 3 + c] + best / 2).epsilon(1e-12));
    }
}

TEST_CASE("training_pass: gradients add up over passes until they are cleared") {
  variant<attention_only> v;
  v.loss();
  v.pass.backward();
  std::vector<double> const once(v.pass.gradients().begin(), v.pass.gradients().end());
  v.loss();
  v.pass.backward();
  for (std::size_t i = 0; i < once.size(); ++i)
    CHECK(v.pass.gradients()[i] == doctest::Approx(2 * once[i]).epsilon(1e-12));
  v.pass.clear_gradients();
  for (double g : v.pass.gradients()) CHECK(g == 0.0);
}

TEST_CASE("model: wrong sizes are named, and nothing is written") {
  variant<attention_only> v;
  std::vector<double> logits(9, -1.0), dpictures(5);
  CHECK_THROWS_WITH_AS(v.net.forward(std::span{v.pictures}.first(35), logits),
                       "model.forward.pictures: got 35 numbers, expected a multiple of 3 x 6 x 2", shape_error);
  CHECK_THROWS_WITH_AS(v.net.forward(v.pictures, std::span{logits}.first(8)), "model.forward.logits: got 8, expected 9",
                       shape_error);
  CHECK_THROWS_AS(v.net.forward({}, {}), shape_error);
  CHECK_THROWS_AS(v.net.reserve(0), shape_error);
  CHECK_THROWS_WITH_AS(
      v.pass.forward(v.pictures, {0, 4, -1, 1}),
      "training_pass.forward.box: rows 0 to 4, columns -1 to 1, expected inside the patch grid of 3 x 1", shape_error);
  CHECK_THROWS_AS(v.pass.backward(), std::logic_error);
  v.loss();
  CHECK_THROWS_AS(v.pass.backward(dpictures), shape_error);
  for (double x : logits) CHECK(x == -1.0);
}

TEST_CASE("model: two runs give the same bits, and so do one and two threads' gradients to rounding") {
  variant<many_tokens> one, two;
  one.net.ctx().set_threads(1);
  for (variant<many_tokens>* v : {&one, &two}) {
    v->loss();
    v->pass.backward();
  }
  CHECK(relative_error(one.pass.gradients(), two.pass.gradients()) < 1e-12);
  std::vector<double> const first(two.pass.gradients().begin(), two.pass.gradients().end());
  two.pass.clear_gradients();
  two.loss();
  two.pass.backward();
  CHECK(std::equal(first.begin(), first.end(), two.pass.gradients().begin()));
}
