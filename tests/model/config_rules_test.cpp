#include <dm2/model/config_rules.hpp>

#include <doctest/doctest.h>

#include "support/configurations.hpp"

#include <climits>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <string_view>

using namespace dm2;
using namespace dm2::test;

namespace {

/// The sentence's words after "dm2::config: "; empty where no rule is broken.
std::string sentence(config const& c) {
  config_rule const* const rule = broken_rule(c);
  return rule == nullptr ? std::string{} : std::string{rule->sentence.substr(std::string_view{"dm2::config: "}.size())};
}
std::string with(std::function<void(config&)> const& change, config c = tiny) {
  change(c);
  return sentence(c);
}

}  // namespace

TEST_CASE("config rules: what compiles keeps them all") {
  static_assert(broken_rule(tiny) == nullptr);
  for (config const& c :
       {tiny, published_small, micro, example::quick, wide, bidirectional, slim, small_config, little})
    CHECK(broken_rule(c) == nullptr);
}

TEST_CASE("config rules: each is broken by what compile_fail breaks it with, in the same words") {
  CHECK(with([](config& c) { c.channels = 0; }) == "image.height, image.width and channels must be at least 1");
  CHECK(with([](config& c) { c.image.height = 0; }) == "image.height, image.width and channels must be at least 1");
  CHECK(with([](config& c) { c.patch = 7; }) ==
        "patch must be even and at least 2, since the stem halves the resolution first");
  CHECK(with([](config& c) { c.image.width = 230; }) == "image.height and image.width must be multiples of patch");
  CHECK(with([](config& c) { c.stem_width = 0; }) == "stem_width must be at least 1");
  CHECK(with([](config& c) { c.depth = 65; }) == "depth must be 1..64");
  CHECK(with([](config& c) { c.expand = 0; }) == "dim and expand must be at least 1");
  CHECK(with([](config& c) { c.mlp_dim = -1; }) == "mlp_dim must be 0 (no MLP) or more");
  CHECK(with([](config& c) { c.classes = 0; }) == "classes must be at least 1");
  CHECK(with([](config& c) { c.headdim = 0; }) == "headdim and d_state must be at least 1");
  CHECK(with([](config& c) { c.headdim = 50; }) == "expand * dim must be a multiple of headdim");
  CHECK(with([](config& c) { c.d_conv = 0; }) == "d_conv must be at least 1");
  CHECK(with([](config& c) { c.groups = 3; }) == "the heads, expand * dim / headdim, must be a multiple of groups");
  CHECK(with([](config& c) { c.groups = 0; }) == "the heads, expand * dim / headdim, must be a multiple of groups");
  CHECK(with([](config& c) { c.depth = 12; }) == "every layer number of attn_layers must be below depth");
  CHECK(with([](config& c) { c.attn_heads = 0; }) == "attn_heads and attn_head_dim must be at least 1");
  CHECK(with([](config& c) { c.attn_rotary = 47; }) == "attn_rotary must be even, or 0 for none");
  CHECK(with([](config& c) { c.attn_rotary = 98; }) == "attn_rotary must not be over attn_head_dim");
  CHECK(with([](config& c) { c.attn_d_conv = -1; }) == "attn_d_conv must be 0 (no convolution) or more");
  for (double const eps : {0.0, -1e-5, std::nan("")})
    CHECK(with([=](config& c) { c.eps = eps; }) == "eps must be positive");
  CHECK(with([](config& c) { c.eps = std::numeric_limits<double>::infinity(); }) == "eps must not be over 1");
}

TEST_CASE("config rules: sizes that no tensor could have are refused before an int overflows") {
  CHECK(with([](config& c) { c.classes = 1'000'001; }) == "no field may be over 1000000");
  CHECK(with([](config& c) { c.classes = INT_MAX; }) == "no field may be over 1000000");
  // 3 * 26752 * 26752 is just under 2^31, sixteen more a side just over
  auto const picture = [](int side) {
    return with(
        [=](config& c) {
          c.image = {side, side};
          c.stem_width = 1;
          c.classes = 1;
          c.d_state = 1;
          c.attn_heads = 1;
        },
        {.dim = 2, .expand = 1, .headdim = 2});
  };
  CHECK(picture(26'752).empty());
  CHECK(picture(26'768) == "a picture, channels * image.height * image.width, must have under 2^31 numbers");
  CHECK(with([](config& c) { c.image = {16'000, 16'000}; }).starts_with("the stem's planes"));
  CHECK(with([](config& c) { c.stem_width = 100'000; }).starts_with("each of the stem's weights"));
  CHECK(with([](config& c) {
          c.dim = c.headdim = 48'000;
          c.stem_width = 1;
        }).starts_with("each of the mixer's weights"));
  CHECK(with([](config& c) {
          c.d_state = c.groups = 2;
          c.attn_heads = 100'000;
          c.groups = 1;
        }).starts_with("each of the attention's weights"));
  CHECK(with([](config& c) {
          c.mlp_dim = 1'000'000;
          c.dim = 4800;
          c.attn_heads = 1;
          c.stem_width = 8;
        }).starts_with("the weights of the MLP"));
  CHECK(with([](config& c) {
          c.image = {8192, 8192};
          c.stem_width = 8;
          c.patch = 4;
        }).starts_with("the tokens of a picture"));
}

TEST_CASE("config rules: a rule names the fields that it is about") {
  config c = tiny;
  c.headdim = 50;
  config_rule const& rule = *broken_rule(c);
  for (char const* name : {"dim", "expand", "headdim"}) CHECK(rule.is_about(name));
  for (char const* name : {"", "d", "head", "headdim ", "dim expand", "depth"}) CHECK_FALSE(rule.is_about(name));
}

TEST_CASE("config rules: any ints are judged without overflow, and what passes has the sizes that it says") {
  std::mt19937 random{7};
  auto const any = [&] {
    switch (random() % 6) {
      case 0:
        return INT_MAX;
      case 1:
        return INT_MIN;
      case 2:
        return int(random() % 1'000'001);
      case 3:
        return int(random());
      default:
        return 1 + int(random() % 64);
    }
  };
  int kept = 0;
  for (int i = 0; i < 200'000; ++i) {
    config c{.image = {any(), any()},
             .patch = any(),
             .channels = any(),
             .stem_width = any(),
             .depth = any(),
             .dim = any(),
             .mlp_dim = any(),
             .classes = any(),
             .expand = any(),
             .headdim = any(),
             .d_state = any(),
             .d_conv = any(),
             .groups = any(),
             .attn_heads = any(),
             .attn_head_dim = any(),
             .attn_rotary = any(),
             .attn_d_conv = any()};
    if (i % 2 == 0) {  // half of them near what passes
      for (int config::*const field :
           {&config::channels, &config::stem_width, &config::dim, &config::mlp_dim, &config::classes, &config::expand,
            &config::d_state, &config::d_conv, &config::attn_heads, &config::attn_head_dim, &config::attn_d_conv})
        c.*field = 1 + int(random() % (random() % 8 == 0 ? 40'000 : 64));
      c.image.height = c.image.width = c.patch = 2 * (1 + int(random() % 8));
      c.headdim = c.groups = 1;
      c.depth = 21 + int(random() % 44);
      c.attn_rotary = 0;
    }
    if (broken_rule(c) != nullptr) continue;
    ++kept;
    mixer_shape const m = detail::mixer_of(c);
    CHECK(m.heads * std::int64_t{m.headdim} == std::int64_t{c.expand} * c.dim);
    CHECK(m.projected() > 0);
    CHECK(std::int64_t{m.projected()} * c.dim < 0x80000000LL);
    CHECK(std::int64_t{detail::attention_of(c).width()} * 3 * c.dim < 0x80000000LL);
  }
  CHECK(kept > 100);
}
