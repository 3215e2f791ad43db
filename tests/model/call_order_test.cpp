// Calls out of order, and objects that were moved from, throw.
#include <dm2/cpu/operations.hpp>
#include <dm2/model/training_pass.hpp>
#include <dm2/train/ema.hpp>
#include <dm2/train/initialise.hpp>
#include <dm2/train/optimizer.hpp>

#include "support/configurations.hpp"
#include "support/random.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <limits>
#include <memory>
#include <new>
#include <stdexcept>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

using context = cpu::context<double>;
using network = model<small_config, context>;
constexpr std::size_t tokens = sizes<small_config>::tokens, classes = 3;

network initialised() {
  network net{2, context{1}};
  initialise(net, 3);
  return net;
}

/// A pass over two pictures of noise, with a target.
struct noise_pass {
  network net = initialised();
  random_source random{5};
  std::vector<double> pictures = random.normal<double>(2 * network::pixels);
  std::vector<double> target = random.uniform<double>(2 * (2 + tokens) * classes, 0, 1);
  training_pass<small_config, context> pass{net, 2};
  std::vector<double> gradients() { return {pass.gradients().begin(), pass.gradients().end()}; }
};

}  // namespace

TEST_CASE("training_pass: loss and backward out of order throw and change nothing") {
  noise_pass f;
  CHECK_THROWS_AS(f.pass.loss(f.target), std::logic_error);
  CHECK_THROWS_AS(f.pass.backward(), std::logic_error);
  f.pass.forward(f.pictures);
  CHECK_THROWS_AS(f.pass.backward(), std::logic_error);  // no loss
  std::vector<double> const kept(f.pass.class_logits().begin(), f.pass.class_logits().end());
  CHECK_THROWS_AS(f.pass.backward(), std::logic_error);  // the class token's gradients alone
  double const loss = f.pass.loss(f.target);
  CHECK(loss > 0);
  std::vector<double> const after(f.pass.class_logits().begin(), f.pass.class_logits().end());
  CHECK(after != kept);
  CHECK_THROWS_AS(f.pass.loss(f.target), std::logic_error);
  CHECK(std::equal(after.begin(), after.end(), f.pass.class_logits().begin()));
  f.pass.backward();
  auto const once = f.gradients();
  CHECK(std::any_of(once.begin(), once.end(), [](double g) { return g != 0; }));
  CHECK_THROWS_AS(f.pass.backward(), std::logic_error);
  CHECK_THROWS_AS(f.pass.loss(f.target), std::logic_error);
  CHECK(f.gradients() == once);

  f.pass.forward(f.pictures);
  f.pass.loss(f.target);
  f.pass.forward(f.pictures);  // begins anew: the loss before it does not count
  CHECK_THROWS_AS(f.pass.backward(), std::logic_error);
  f.pass.loss(f.target);
  f.pass.backward();
}

TEST_CASE("training_pass: gradients of one's own take the place of a loss") {
  noise_pass f, own;
  f.pass.forward(f.pictures);
  f.pass.loss(f.target);
  std::vector<double> const dcls(f.pass.class_logits().begin(), f.pass.class_logits().end());
  std::vector<double> const daux(f.pass.patch_logits().begin(), f.pass.patch_logits().end());
  f.pass.backward();
  own.pass.forward(own.pictures);
  std::copy(dcls.begin(), dcls.end(), own.pass.class_logits().begin());
  std::copy(daux.begin(), daux.end(), own.pass.patch_logits().begin());
  own.pass.backward();
  CHECK(own.gradients() == f.gradients());
}

TEST_CASE("training_pass: sparse targets that name a class that is not there, or overlap, are refused") {
  noise_pass f;
  std::size_t const count = 2 * (1 + tokens);
  std::vector<double> const base(count, 0.1), extra(count, 0.7);
  std::vector<std::uint32_t> begin(count + 1), index(count);
  for (std::size_t r = 0; r <= count; ++r) begin[r] = std::uint32_t(r);
  auto const loss = [&] {
    f.pass.forward(f.pictures);
    return f.pass.loss(sparse_rows<double>{base.data(), begin.data(), index.data(), extra.data(), count});
  };
  CHECK(loss() > 0);
  for (std::uint32_t const wrong : {3u, 0x7fffffffu, 0xffffffffu}) {
    index.back() = wrong;
    CHECK_THROWS_AS(loss(), shape_error);
  }
  index.back() = 2;
  CHECK(loss() > 0);
  begin[1] = 5;
  CHECK_THROWS_AS(loss(), shape_error);
}

TEST_CASE("model: one that was moved from throws wherever its state is used, and lives again when one is moved in") {
  network net = initialised();
  std::vector<double> pictures = random_source{7}.normal<double>(2 * network::pixels), want(2 * classes), logits(want);
  net.forward(pictures, want);
  training_pass pass{net, 2};
  network other{std::move(net)};
  // NOLINTBEGIN(bugprone-use-after-move)
  std::vector<double> features(2 * sizes<small_config>::length * 8), patches(2 * tokens * classes);
  CHECK_THROWS_AS(net.forward(pictures, logits), std::logic_error);
  CHECK_THROWS_AS(net.forward_features(pictures, features), std::logic_error);
  CHECK_THROWS_AS(net.forward_patches(pictures, logits, patches), std::logic_error);
  CHECK_THROWS_AS(net.reserve(1), std::logic_error);
  CHECK_THROWS_AS(static_cast<void>(net.state()), std::logic_error);
  CHECK_THROWS_AS(static_cast<void>(std::as_const(net).state()), std::logic_error);
  CHECK_THROWS_AS(static_cast<void>(net.view()), std::logic_error);
  CHECK_THROWS_AS(pass.forward(pictures), std::logic_error);
  CHECK_THROWS_AS((training_pass{net, 2}), std::logic_error);
  CHECK_THROWS_AS((ema<small_config, context>{net}), std::logic_error);
  optimizer<small_config, context> rule;
  std::vector<double> gradients(state_extent<small_config>);
  CHECK_THROWS_AS(rule.step(net, gradients, 0.1), std::logic_error);
  CHECK(rule.steps() == 0);
  // NOLINTEND(bugprone-use-after-move)
  other.forward(pictures, logits);
  CHECK(logits == want);
  net = std::move(other);
  std::fill(logits.begin(), logits.end(), 0.0);
  net.forward(pictures, logits);
  CHECK(logits == want);
}

TEST_CASE("optimizer, ema: one that was moved from throws and changes nothing, the other goes on") {
  network net = initialised();
  std::vector<double> gradients(state_extent<small_config>, 0.5);
  optimizer<small_config, context> rule;
  ema<small_config, context> average{net};
  optimizer<small_config, context> rule_now{std::move(rule)};
  ema<small_config, context> average_now{std::move(average)};
  std::vector<double> const before(net.state().begin(), net.state().end());
  // NOLINTBEGIN(bugprone-use-after-move)
  CHECK_THROWS_AS(rule.step(net, gradients, 0.1), std::logic_error);
  CHECK_THROWS_AS(average.step(net), std::logic_error);
  CHECK_THROWS_AS(average.swap(net), std::logic_error);
  CHECK_THROWS_AS(static_cast<void>(average.state()), std::logic_error);
  // NOLINTEND(bugprone-use-after-move)
  CHECK(std::equal(before.begin(), before.end(), net.state().begin()));
  rule_now.step(net, gradients, 0.1);
  average_now.step(net);
  CHECK(average_now.steps() == 1);
  CHECK_THROWS_AS(rule_now.step(net, gradients, -0.1), std::invalid_argument);
  CHECK_THROWS_AS(rule_now.step(net, gradients, std::numeric_limits<double>::quiet_NaN()), std::invalid_argument);
  CHECK(rule_now.steps() == 1);
}

TEST_CASE("context: one that was moved from is as new, and shares no scratch with the other") {
  context first{1};
  REQUIRE(first.reserve(1000, 100));
  context second{std::move(first)};
  CHECK(second.shared().capacity() >= 1000);
  CHECK(first.shared().capacity() == 0);  // NOLINT(bugprone-use-after-move)
  REQUIRE(first.reserve(1000, 100));
  CHECK(first.shared().take<std::byte>(1) != second.shared().take<std::byte>(1));
}

TEST_CASE("model, training_pass: no pictures, and more than memory has, are refused, and the model goes on") {
  for (int const batch : {0, -1, std::numeric_limits<int>::min()}) {
    CHECK_THROWS_AS((network{batch, context{1}}), shape_error);
    network net{1, context{1}};
    CHECK_THROWS_AS((training_pass{net, batch}), shape_error);
    CHECK_THROWS_AS(net.reserve(batch), shape_error);
  }
}

TEST_CASE("network_view: a layer of another kind, or past the last, is refused") {
  network net = initialised();  // layer 0 is a mixer, 1 attention
  CHECK(net.view().mixer(0).data != nullptr);
  CHECK(net.view().attention(1).data > net.view().mixer(0).data);
  for (int const layer : {-2, 1, 2}) CHECK_THROWS_AS(static_cast<void>(net.view().mixer(layer)), std::out_of_range);
  CHECK_THROWS_AS(static_cast<void>(net.view().attention(0)), std::out_of_range);
  CHECK_THROWS_AS(static_cast<void>(net.view().mlp(0)), std::out_of_range);
}
