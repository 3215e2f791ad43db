// Tensors by name: the same memory as the state, and what is said of names that are not there.
#include <dm2/cpu/operations.hpp>
#include <dm2/model/training_pass.hpp>
#include <dm2/train/ema.hpp>
#include <dm2/train/optimizer.hpp>

#include "support/configurations.hpp"
#include "support/random.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

using context = cpu::context<double>;
using network = model<small_config, context>;
constexpr std::size_t tokens = sizes<small_config>::tokens;

template <class F>
std::string complaint(F const& f) {
  try {
    f();
  } catch (std::out_of_range const& e) {
    return e.what();
  }
  return {};
}

}  // namespace

TEST_CASE("model: find gives each entry's own memory and shape, const and not") {
  network net{1, context{1}};
  auto const values = random_source{3}.normal(net.state().size());
  std::copy(values.begin(), values.end(), net.state().begin());
  for (parameter_entry const& e : net.table()) {
    if (e.kind == entry_kind::counter) continue;
    auto const found = net.find(e.name);
    CHECK(found.name == e.name);
    CHECK(found.shape.size() == std::size_t(e.rank));
    CHECK(std::equal(found.shape.begin(), found.shape.end(), e.shape.begin()));
    CHECK(found.values.data() == net.state().data() + e.offset);
    CHECK(found.values.size() == e.size);
    CHECK(std::as_const(net).find(e.name).values.data() == found.values.data());
  }
  auto const head = net.find("head.weight");
  CHECK((head.shape.size() == 2 && head.shape[0] == 3 && head.shape[1] == 8));
  static_assert(std::is_same_v<decltype(std::as_const(net).find("")), named_tensor<double const>>);
  static_assert(std::is_same_v<decltype(net.find("")), named_tensor<double>>);
}

TEST_CASE("model: a name that is not there is answered with the nearest ones") {
  network net{1, context{1}};
  auto const find = [&](char const* name) { return complaint([&] { (void)net.find(name); }); };
  CHECK(find("head.wieght") == "no tensor is named \"head.wieght\"; near it: head.weight, head.bias, aux_head.weight");
  CHECK(find("layer.0.mixer.D").find("near it: layers.0.mixer.D") != std::string::npos);
  CHECK(find("A_log_b").find("near it: layers.0.mixer.A_log_b") != std::string::npos);
  CHECK(find("").find("near it: ") != std::string::npos);
  CHECK(find("patch_embed.bn2.num_batches_tracked") ==
        "\"patch_embed.bn2.num_batches_tracked\" is a step count: counters()[1]");
}

TEST_CASE("training_pass: find_gradient gives what backward adds to, and nothing for what is not trained") {
  network net{2, context{1}};
  random_source random{5};
  auto const values = random.normal(net.state().size(), 0.2);
  std::copy(values.begin(), values.end(), net.state().begin());
  for (double& v : net.find("patch_embed.bn1.running_var").values) v = 1;
  training_pass pass{net, 2};
  std::vector<double> const pictures = random.normal(2 * net.pixels);  // backward reads them too
  pass.forward(pictures);
  pass.loss(random.uniform(2 * (2 + tokens) * 3, 0, 1));
  pass.backward();
  auto const head = pass.find_gradient("head.weight");
  CHECK(head.values.size() == 24);
  CHECK(std::any_of(head.values.begin(), head.values.end(), [](double g) { return g != 0; }));
  for (parameter_entry const& e : net.table())
    if (e.kind == entry_kind::parameter)
      CHECK(pass.find_gradient(e.name).values.data() == pass.gradients().data() + e.offset);
  for (char const* name : {"patch_embed.bn1.running_mean", "patch_embed.bn1.num_batches_tracked", "layers.0.mixer.D_b"})
    CHECK(complaint([&] { (void)pass.find_gradient(name); }).find("is not trained") != std::string::npos);
  CHECK(complaint([&] { (void)pass.find_gradient("head.wieght"); }).find("head.weight") != std::string::npos);
}

TEST_CASE("optimizer, ema: their types follow from a model, and their buffers have the same names") {
  network net{1, context{1}};
  optimizer rule{net, {.kind = optimizer_kind::adamw, .weight_decay = 0.25}}, plain_rule{net};
  ema average{net, 0.5};
  static_assert(std::is_same_v<decltype(rule), optimizer<small_config, context>>);
  static_assert(std::is_same_v<decltype(plain_rule), optimizer<small_config, context>>);
  static_assert(std::is_same_v<decltype(average), ema<small_config, context>>);
  CHECK(rule.options().weight_decay == 0.25);
  CHECK(rule.second_moment().size() == state_extent<small_config>);
  CHECK(plain_rule.second_moment().empty());
  auto const momentum = find_tensor(net.table(), rule.momentum(), "head.bias");
  CHECK(momentum.values.data() - rule.momentum().data() == net.find("head.bias").values.data() - net.state().data());
}
