#include <dm2/model/training_pass.hpp>

#include <doctest/doctest.h>

#include "support/allocation_counter.hpp"
#include "support/random.hpp"

#include <algorithm>
#include <cmath>
#include <new>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

/// Every kind of layer: mixers of two groups, attention, MLP.
constexpr config all_kinds{.image = {32, 24},
                           .patch = 8,
                           .stem_width = 5,
                           .depth = 3,
                           .dim = 12,
                           .mlp_dim = 7,
                           .classes = 6,
                           .headdim = 6,
                           .d_state = 4,
                           .groups = 2,
                           .attn_layers = layers(1),
                           .attn_heads = 2,
                           .attn_head_dim = 6,
                           .attn_rotary = 4};
using net_type = model<all_kinds, cpu::context<float>>;

net_type random_net(int batch, int threads) {
  net_type net{batch, cpu::context<float>{threads}};
  auto const values = random_source{149}.uniform<float>(net.state().size(), 0.1, 0.5);
  for (parameter_entry const& e : net.table())
    if (e.kind != entry_kind::counter) std::copy_n(values.data() + e.offset, e.size, net.state().data() + e.offset);
  return net;
}

constexpr std::size_t pixels = net_type::pixels, classes = net_type::classes, tokens = sizes<all_kinds>::tokens;

}  // namespace

TEST_CASE("allocation: the counter sees operator new") {
  allocation_counter const counter;
  void* const plain = ::operator new(4);
  void* const aligned = ::operator new (40, std::align_val_t{64});
  std::size_t const calls = counter.calls(), bytes = counter.bytes();
  ::operator delete(plain);
  ::operator delete (aligned, std::align_val_t{64});
  CHECK(calls == 2);
  CHECK(bytes == 44);
}

TEST_CASE("model: an evaluation of at most the planned batch calls no operator new") {
  constexpr int planned = 3;
  for (int const threads : {1, 2})
    for (std::size_t const batch : {std::size_t{1}, std::size_t{planned}}) {
      CAPTURE(threads);
      CAPTURE(batch);
      auto net = random_net(planned, threads);
      auto const pictures = random_source{151}.normal<float>(batch * pixels);
      auto logits = poisoned<float>(batch * classes), patches = poisoned<float>(batch * tokens * classes);
      auto features = poisoned<float>(batch * (tokens + 1) * 12);
      allocation_counter const counter;
      net.forward(pictures, logits);
      net.forward_patches(pictures, logits, patches);
      net.forward_features(pictures, features);
      CHECK(counter.calls() == 0);
      CHECK_FALSE(std::isnan(logits.back()));
      CHECK_FALSE(std::isnan(patches.back()));
      CHECK_FALSE(std::isnan(features.back()));
    }
}

TEST_CASE("model: a batch larger than the planned one grows the memory once") {
  auto net = random_net(1, 2);
  auto const pictures = random_source{151}.normal<float>(3 * pixels);
  std::vector<float> logits(3 * classes);
  allocation_counter const growing;
  net.forward(pictures, logits);
  CHECK(growing.calls() > 0);
  CHECK(net.batch() == 3);
  auto const first = logits;
  allocation_counter const counter;
  net.forward(pictures, logits);
  CHECK(counter.calls() == 0);
  CHECK(logits == first);
}

TEST_CASE("training_pass: forward, loss and backward call no operator new, with the pictures' gradient and without") {
  for (int const threads : {1, 2})
    for (int const batch : {1, 3}) {
      CAPTURE(threads);
      CAPTURE(batch);
      auto net = random_net(1, threads);
      training_pass pass{net, batch};
      std::size_t const n = std::size_t(batch);
      random_source random{157};
      auto const pictures = random.normal<float>(n * pixels);
      auto const target = random.uniform<float>(n * (2 + tokens) * classes, 0, 1);
      auto dpictures = poisoned<float>(pictures.size());
      allocation_counter const counter;
      pass.forward(pictures, {0, 2, 1, 3});
      pass.loss(target);
      pass.backward(dpictures);
      pass.clear_gradients();
      pass.forward(pictures);
      pass.loss(target);
      pass.backward();
      CHECK(counter.calls() == 0);
      CHECK_FALSE(std::isnan(dpictures.back()));
    }
}

TEST_CASE("training_pass: evaluations in between do not allocate either") {
  auto net = random_net(2, 2);
  training_pass pass{net, 2};
  random_source random{163};
  auto const pictures = random.normal<float>(2 * pixels);
  auto const target = random.uniform<float>(2 * (2 + tokens) * classes, 0, 1);
  std::vector<float> logits(2 * classes);
  allocation_counter const counter;
  pass.forward(pictures);
  pass.loss(target);
  pass.backward();
  net.forward(pictures, logits);
  pass.forward(pictures);
  pass.loss(target);
  pass.backward();
  CHECK(counter.calls() == 0);
}
