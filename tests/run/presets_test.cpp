#include <dm2/model/config_rules.hpp>
#include <dm2/run/presets.hpp>

#include <doctest/doctest.h>

#include "support/configurations.hpp"

#include <string>
#include <vector>

using namespace dm2;

namespace {
template <class Change>
std::string changed(config c, Change const& change) {
  change(c);
  return name_of(c);
}
}  // namespace

TEST_CASE("presets: each is found by its name, keeps the rules, and is called by its name") {
  CHECK(preset_names() == std::vector<std::string>{"tiny", "small", "quick", "micro"});
  for (preset const& p : known_presets) {
    REQUIRE(find_preset(p.name) == &p);
    CHECK(broken_rule(p.configuration) == nullptr);
    CHECK(name_of(p.configuration) == p.name);
  }
  for (char const* other : {"", "Tiny", "tiny ", "tin"}) CHECK(find_preset(other) == nullptr);
}

TEST_CASE("presets: a configuration is called after the nearest, and by what tells it from that") {
  CHECK(changed(tiny, [](config& c) { c.classes = 37; }) == "tiny with classes 37");
  CHECK(changed(tiny, [](config& c) {
          c.classes = 37;
          c.image = {384, 320};
        }) == "tiny with image 384 x 320, classes 37");
  CHECK(changed(presets::quick, [](config& c) {
          c.attn_layers = {};
          c.variant = mixer_variant::published;
          c.eps = 1e-6;
        }) == "quick with attn_layers none, eps 1e-06, variant published");
  CHECK(changed(published_small, [](config& c) { c.attn_layers = layers(3, 4); }) == "small with attn_layers 3, 4");
  CHECK(name_of(test::bidirectional).starts_with("micro with stem_width 8, "));
}

TEST_CASE("presets: a description says pictures, layers, channels and classes") {
  CHECK(describe("tiny", tiny) == "tiny: pictures of 224 x 224, 24 layers of 192 channels, 1000 classes");
  config c = tiny;
  c.depth = c.classes = 1;
  CHECK(describe("mine", c) == "mine: pictures of 224 x 224, 1 layer of 192 channels, 1 class");
}
