// The drawn picture set: what is drawn, where it is, and its label maps.
#include "../examples/support/shapes/draw.hpp"
#include "../examples/support/shapes/label_map.hpp"
#include "../examples/support/shapes/label_map_file.hpp"

#include <dm2/data/label_map_file.hpp>

#include "io/scratch.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <numeric>
#include <set>
#include <string>
#include <vector>

using namespace dm2::example::shapes;
using dm2::label_map_data;
using dm2::random_stream;

namespace {

double seen_pixels(drawing const& d) { return std::accumulate(d.cover.begin(), d.cover.end(), 0.0); }

}  // namespace

TEST_CASE("shapes: a picture is a function of seed, part, index and size") {
  drawing const first = draw_sample(3, part::training, 20, 48);
  CHECK(draw_sample(3, part::training, 20, 48).image == first.image);
  CHECK(draw_sample(3, part::training, 20, 48).cover == first.cover);
  CHECK_FALSE(draw_sample(4, part::training, 20, 48).image == first.image);
  CHECK_FALSE(draw_sample(3, part::validation, 20, 48).image == first.image);
  CHECK_FALSE(draw_sample(3, part::training, 20 + classes.size(), 48).image == first.image);
}

TEST_CASE("shapes: classes take turns, their names are in the order of folders, and each object is seen") {
  std::vector<std::string> const names = class_names();
  CHECK(names.size() >= 10);
  CHECK(std::is_sorted(names.begin(), names.end()));
  CHECK(std::set<std::string>(names.begin(), names.end()).size() == names.size());
  for (std::size_t i = 0; i < 20 * classes.size(); ++i) {
    drawing const d = draw_sample(1, part::training, i, 32);
    CHECK(d.label == int(i % classes.size()));
    CHECK(seen_pixels(d) > 0.02 * 32 * 32);
    CHECK(seen_pixels(d) < 0.7 * 32 * 32);
  }
  CHECK_THROWS_AS((void)draw_sample(1, part::training, 0, -1), dm2::shape_error);
}

TEST_CASE("shapes: the cover is the area that the outline encloses") {
  random_stream random{0, 0, 0};
  scene s;
  layer object;
  object.is_object = true;
  object.place = {{0.5, 0.5}, 0.3, 0.7};
  auto const area = [&](double (*outline)(point)) {
    object.outline = outline;
    s.layers = {object};
    return seen_pixels(draw(s, 200, random)) / (200 * 200 * 0.3 * 0.3);
  };
  double const pi = std::numbers::pi;
  CHECK(area([](point p) { return disc(p, 1); }) == doctest::Approx(pi).epsilon(0.005));
  CHECK(area([](point p) { return ring(p, 0.5, 1); }) == doctest::Approx(0.75 * pi).epsilon(0.005));
  CHECK(area([](point p) { return box(p, 0.8, 0.5); }) == doctest::Approx(1.6).epsilon(0.005));
  CHECK(area([](point p) { return cross(p, 1, 0.25); }) == doctest::Approx(1.75).epsilon(0.005));
  CHECK(area([](point p) { return triangle(p, 1); }) == doctest::Approx(0.75 * std::sqrt(3.0)).epsilon(0.005));
  CHECK(area([](point p) { return star(p, 0.5, 1); }) == doctest::Approx(2.5 * std::sin(pi / 5)).epsilon(0.005));
  CHECK(area([](point p) { return bar(p, 0.5, 0.2); }) == doctest::Approx(0.4 + 0.04 * pi).epsilon(0.005));
}

TEST_CASE("shapes: fillings of two colours give the second two fifths to a half of the square") {
  for (filling fill : {filling::checks, filling::stripes, filling::halves}) {
    int second = 0;
    for (int y = 0; y < 100; ++y)
      for (int x = 0; x < 100; ++x)
        second += second_colour(fill, {0.85 * (x - 49.5) / 50, 0.85 * (y - 49.5) / 50}) ? 1 : 0;
    CHECK(second >= 3900);  // of five bands, two
    CHECK(second <= 5100);
  }
  CHECK_FALSE(second_colour(filling::plain, {0.3, 0.2}));
}

TEST_CASE("shapes: a label map has the class on top where the object is, and nothing high elsewhere") {
  constexpr int size = 48, cells = 12, plane = cells * cells;
  for (std::size_t i = 0; i < 3 * classes.size(); ++i) {
    drawing const d = draw_sample(5, part::training, i, size);
    random_stream random{5, 3, i};
    label_map_data const map = draw_label_map(d, cells, random);
    REQUIRE(map.values.size() == 10 * plane);
    for (int cell = 0; cell < plane; ++cell) {
      double cover = 0;
      for (int y = 0; y < 4; ++y)
        for (int x = 0; x < 4; ++x)
          cover += double(d.cover[std::size_t((cell / cells * 4 + y) * size + cell % cells * 4 + x)]) / 16;
      auto const at = [&](int k) { return map.values[std::size_t(k * plane + cell)]; };
      std::set<float> different;
      for (int k = 0; k < 5; ++k) different.insert(at(5 + k));
      CHECK(different.size() == 5);
      if (cover >= covered_cell) {
        CHECK(at(5) == float(d.label));
        CHECK(at(0) == doctest::Approx(15 + 15 * cover));
        CHECK(at(1) <= 1);
      } else {
        CHECK(at(0) <= 1);
      }
      CHECK(at(4) >= 0);
    }
  }
}

TEST_CASE("shapes: a label-map file is read back, scores within half precision") {
  dm2::test::scratch_folder const folder;
  random_stream random{9, 3, 0};
  label_map_data const map = draw_label_map(draw_sample(9, part::training, 4, 48), 16, random);
  auto const bytes = encode_label_map(map);
  dm2::test::write_raw(folder.path() / "map.pt", {reinterpret_cast<char const*>(bytes.data()), bytes.size()});
  label_map_data const read = dm2::read_label_map(folder.path() / "map.pt", int(classes.size()));
  CHECK(read.height == 16);
  CHECK(read.width == 16);
  REQUIRE(read.values.size() == map.values.size());
  for (std::size_t i = 0; i < map.values.size(); ++i)
    CHECK(read.values[i] == doctest::Approx(map.values[i]).epsilon(0.0005));
  CHECK_THROWS_AS((void)draw_label_map(draw_sample(9, part::training, 4, 48), 7, random), dm2::shape_error);
}
