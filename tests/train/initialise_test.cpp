// The parameters with which training starts, against their definitions.
#include <dm2/cpu/context.hpp>
#include <dm2/model/model.hpp>
#include <dm2/train/initialise.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

using namespace dm2;

namespace {

constexpr config wide{.image = {32, 32},
                      .patch = 8,
                      .stem_width = 16,
                      .depth = 4,
                      .dim = 96,
                      .mlp_dim = 64,
                      .classes = 50,
                      .headdim = 24,
                      .d_state = 16,
                      .attn_layers = layers(2),
                      .attn_heads = 2,
                      .attn_head_dim = 32,
                      .attn_rotary = 16,
                      .attn_d_conv = 3};
using network = model<wide, cpu::context<double>>;

network const& fresh() {
  static network const net = [] {
    network n;
    for (auto& count : n.counters()) count = 9;
    initialise(n, 5);
    return n;
  }();
  return net;
}

std::span<double const> entry(network const& net, std::string_view name) {
  for (parameter_entry const& e : net.table())
    if (e.name == name) return net.state().subspan(e.offset, e.size);
  FAIL("no entry " << name);
  return {};
}
std::span<double const> entry(std::string_view name) { return entry(fresh(), name); }

struct moments {
  double mean = 0, deviation = 0, largest = 0;
};
moments of(std::span<double const> v) {
  moments m;
  for (double x : v) m.mean += x / double(v.size());
  for (double x : v) {
    m.deviation += (x - m.mean) * (x - m.mean) / double(v.size());
    m.largest = std::max(m.largest, std::abs(x));
  }
  m.deviation = std::sqrt(m.deviation);
  return m;
}

/// Uniform in +-bound: the standard deviation is bound / sqrt(3), the largest of many is close to the bound, not over
/// it.
void check_uniform(std::string_view name, double bound) {
  CAPTURE(name);
  auto const v = entry(name);
  moments const m = of(v);
  CHECK(m.largest <= bound);
  CHECK(m.largest >= bound * (1 - 20 / double(v.size())));
  CHECK(std::abs(m.mean) <= 5 * bound / std::sqrt(3 * double(v.size())));
  CHECK(std::abs(m.deviation - bound / std::sqrt(3.0)) <= 3 * bound / std::sqrt(double(v.size())));
}

/// Five standard errors about the mean 0 and the deviation.
void check_normal(std::string_view name, double deviation) {
  CAPTURE(name);
  auto const v = entry(name);
  moments const m = of(v);
  CHECK(std::abs(m.mean) <= 5 * deviation / std::sqrt(double(v.size())));
  CHECK(std::abs(m.deviation - deviation) <= 5 * deviation / std::sqrt(2 * double(v.size())));
}

bool all(std::string_view name, double value) {
  return std::ranges::all_of(entry(name), [value](double v) { return v == value; });
}

}  // namespace

TEST_CASE("initialise: stem convolutions are normal, cut at two sigma, with the fan-in's deviation") {
  for (auto const& [name, fan_in] :
       {std::pair{"patch_embed.conv1.weight", 3 * 49.0}, {"patch_embed.conv2.weight", 16 * 9.0}}) {
    check_normal(name, 1 / std::sqrt(fan_in));
    moments const m = of(entry(name));
    double const cut = 2 / std::sqrt(fan_in) / 0.87962566103423978;
    CHECK(m.largest <= cut);
    CHECK(m.largest >= 0.97 * cut);
  }
}

TEST_CASE("initialise: heads, position embedding and class token have deviation 0.02, and biases are 0") {
  for (char const* name : {"head.weight", "aux_head.weight", "pos_embed", "cls_token"}) check_normal(name, 0.02);
  for (char const* name : {"head.bias", "aux_head.bias", "patch_embed.bn1.bias"}) CHECK(all(name, 0));
}

TEST_CASE("initialise: linear layers are uniform by their fan-in; out_proj and fc2 are smaller by sqrt(depth)") {
  double const dim = 1 / std::sqrt(96.0), inner = 1 / std::sqrt(192.0), width = 1 / std::sqrt(64.0);
  check_uniform("layers.0.mixer.in_proj.weight", dim);
  check_uniform("layers.0.mixer.out_proj_b.weight", inner);
  check_uniform("layers.0.mixer.out_proj.weight", inner / 2);
  check_uniform("layers.2.mixer.in_proj.weight", dim);
  check_uniform("layers.2.mixer.out_proj.weight", width / 2);
  check_uniform("layers.1.mlp.fc1.weight", dim);
  check_uniform("layers.1.mlp.fc2.weight", width / 2);
}

TEST_CASE("initialise: convolutions along the sequence are uniform by their taps, biases too") {
  for (char const* name : {"layers.0.mixer.conv1d.weight", "layers.0.mixer.conv1d.bias",
                           "layers.3.mixer.conv1d_b.weight", "layers.3.mixer.conv1d_b.bias"})
    check_uniform(name, 0.5);
  check_uniform("layers.2.mixer.conv1d.weight", 1 / std::sqrt(3.0));
}

TEST_CASE("initialise: step sizes are log-uniform, decay rates uniform, and both directions begin alike") {
  std::vector<double> steps, rates;
  for (int i : {0, 1, 3}) {
    std::string const layer = "layers." + std::to_string(i) + ".mixer.";
    for (double v : entry(layer + "dt_bias")) steps.push_back(std::log(std::log1p(std::exp(v))));
    for (double v : entry(layer + "A_log")) rates.push_back(std::exp(v));
    CHECK(std::ranges::equal(entry(layer + "dt_bias"), entry(layer + "dt_bias_b")));
    CHECK(std::ranges::equal(entry(layer + "A_log"), entry(layer + "A_log_b")));
    for (char const* name : {"D", "D_b", "norm.weight"}) CHECK(all(layer + name, 1));
  }
  auto const check_range = [](std::vector<double> const& v, double low, double high) {
    auto const [least, most] = std::ranges::minmax(v);
    CHECK(least >= low - 1e-9);
    CHECK(most <= high + 1e-9);
    moments const m = of(v);
    double const error = (high - low) / std::sqrt(12 * double(v.size()));
    CHECK(std::abs(m.mean - (low + high) / 2) <= 4 * error);
    CHECK(m.deviation > (high - low) / 8);
  };
  check_range(steps, std::log(0.001), std::log(0.1));
  check_range(rates, 1, 16);
  CHECK_FALSE(std::ranges::equal(entry("layers.0.mixer.A_log"), entry("layers.1.mixer.A_log")));
}

TEST_CASE("initialise: norms are 1, statistics 0 and 1, counts 0") {
  for (char const* name :
       {"layers.0.norm.weight", "norm_f.weight", "patch_embed.bn1.weight", "patch_embed.bn2.running_var"})
    CHECK(all(name, 1));
  CHECK(all("patch_embed.bn1.running_mean", 0));
  for (auto count : fresh().counters()) CHECK(count == 0);
}

TEST_CASE("initialise: the seed decides, and nothing else") {
  network same, other;
  std::ranges::fill(same.state(), 3.0);
  initialise(same, 5);
  initialise(other, 6);
  for (parameter_entry const& e : same.table())
    if (e.kind != entry_kind::counter) CHECK(std::ranges::equal(entry(e.name), entry(same, e.name)));
  CHECK_FALSE(std::ranges::equal(entry("head.weight"), entry(other, "head.weight")));
}
