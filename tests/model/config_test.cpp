#include <dm2/model/config.hpp>

#include <doctest/doctest.h>

#include <initializer_list>

using namespace dm2;

TEST_CASE("config: layers() is the set of its numbers") {
  constexpr layer_set set = layers(0, 10, 63);
  static_assert(set.contains(0) && set.contains(10) && set.contains(63));
  for (int const other : {-1, 1, 9, 11, 62, 64, 100}) CHECK_FALSE(set.contains(other));
  static_assert(layers().bits == 0);
  static_assert(layers(3, 3).bits == layers(3).bits);
}

TEST_CASE("config: a layer number outside 0 to 63 throws where it is no constant") {
  int number = 64;
  CHECK_THROWS(layers(number));
  number = -1;
  CHECK_THROWS(layers(number));
}

TEST_CASE("config: the presets have the published sizes") {
  using t = sizes<tiny>;
  CHECK(t::heads == 8);
  CHECK(t::d_inner == 384);
  CHECK(t::conv_dim == 640);
  CHECK(t::projected == 1032);
  CHECK(t::attn_width == 288);
  CHECK(t::tokens == 196);
  CHECK(t::length == 197);
  CHECK(t::class_token == 98);
  CHECK(t::pixels == 3 * 224 * 224);
  CHECK(sizes<small>::heads == 8);
  CHECK(sizes<small>::attn_width == 576);
  CHECK(tiny.variant == mixer_variant::published);
}

TEST_CASE("config: a picture that is not square keeps its axes") {
  constexpr config wide{.image = {48, 32}, .patch = 8};
  using w = sizes<wide>;
  CHECK(w::stem.grid_height() == 6);
  CHECK(w::stem.grid_width() == 4);
  CHECK(w::stem.half_height() == 24);
  CHECK(w::stem.half_width() == 16);
  CHECK(w::tokens == 24);
}
