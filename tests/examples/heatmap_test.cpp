// The heat maps that examples/classify writes, and the parts that draw them.
#include <dm2/data/decode.hpp>
#include <dm2/data/heatmap.hpp>

#include "../examples/support/heatmap_files.hpp"
#include "examples/run_program.hpp"
#include "io/refusal.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

using namespace dm2;
using namespace dm2::detail;
using namespace dm2::test;
using namespace dm2::example;

namespace {
bool has_colour(dm2::picture const& p, int y, int x) {
  auto const* const at = p.row(y) + 3 * x;
  return at[0] != at[1] || at[1] != at[2];
}
/// How far a pixel is on the side of red.
int redness(dm2::picture const& p, int y, int x) { return p.row(y)[3 * x] - p.row(y)[3 * x + 2]; }
}  // namespace

TEST_CASE("heat map: has the picture's size, colour where the model looked and none elsewhere") {
  scratch_folder const folder;
  std::string const file = (folder / "map.png").string();
  auto const got = run_program(
      DM2_CLASSIFY, {"--device", "cpu", "-w", ema_checkpoint, "images/photo.jpg", "--heatmap", file, "--class", "3"});
  CHECK(got.code == 0);
  CHECK(contains(got.out, "heat map of class 3"));
  dm2::picture const map = dm2::read_image(file), photo = dm2::read_image(DM2_GOLDEN_DIR "/images/photo.jpg");
  REQUIRE(map.height == photo.height);
  REQUIRE(map.width == photo.width);
  // 375 x 500 is resized to 73 x 97 and cropped to 64 x 64: rows 21 to 349, columns 82 to 412 of the picture
  for (int y = 0; y < map.height; y += 3)
    for (int x = 0; x < map.width; x += 3) {
      if (y < 18 || y > 353 || x < 79 || x > 416) CHECK_FALSE(has_colour(map, y, x));
      if (y > 24 && y < 346 && x > 85 && x < 409) CHECK(has_colour(map, y, x));
    }
}

TEST_CASE("heat map: several pictures go to a folder, under their names") {
  scratch_folder const folder;
  auto const got =
      run_program(DM2_CLASSIFY, {"--device", "cpu", "-w", ema_checkpoint, "images/rgb.png", "images/photo.jpg",
                                 "images/photo.jpg", "--csv", "--heatmap", folder.path().string()});
  CHECK(got.code == 0);
  CHECK(got.err == "");
  CHECK(folder.files() == 3);
  for (char const* name : {"rgb.png", "photo.png", "photo-2.png"}) CHECK(dm2::read_image(folder / name).width > 1);
}

TEST_CASE("heat map files: a folder that is not there is made, for several pictures and where {} stands") {
  scratch_folder const folder;
  std::vector<std::filesystem::path> const pictures{"a/x.jpg", "b/y.png"};
  auto const in_folder = heatmap_files((folder / "new/maps").string(), pictures);
  CHECK(in_folder == std::vector<std::filesystem::path>{folder / "new/maps/x.png", folder / "new/maps/y.png"});
  CHECK(std::filesystem::is_directory(folder / "new/maps"));
  (void)heatmap_files((folder / "other/{}-seen.png").string(), pictures);
  CHECK(std::filesystem::is_directory(folder / "other"));
  write_raw(folder / "file", "text");
  CHECK_THROWS_AS((void)heatmap_files((folder / "file/maps").string(), pictures), usage_error);
}

TEST_CASE("heat map: the patch with the highest value is the reddest place, at every corner") {
  dm2::picture grey{80, 120};
  std::fill(grey.pixels.begin(), grey.pixels.end(), std::uint8_t{128});
  for (int row = 0; row < 4; ++row)
    for (int column = 0; column < 6; ++column) {
      patch_map map{{4, 6}, std::vector<float>(24, 0.0f)};
      map.value[std::size_t(row * 6 + column)] = 1;
      dm2::picture const out = draw_heatmap(grey, map, {0, 0, 80, 120});
      int best = -1000, y_best = 0, x_best = 0;
      for (int y = 0; y < 80; ++y)
        for (int x = 0; x < 120; ++x)
          if (redness(out, y, x) > best) best = redness(out, y, x), y_best = y, x_best = x;
      CHECK(y_best / 20 == row);
      CHECK(x_best / 20 == column);
    }
}

TEST_CASE("heat map: interpolation keeps constants and straight lines, and passes through the patches' values") {
  for (double at = 1.5; at <= 6.5; at += 0.07) {
    cubic_taps const t = taps_at(at, 8);
    double sum = 0, line = 0;
    for (std::size_t k = 0; k < 4; ++k) {
      sum += double(t.weight[k]);
      line += double(t.weight[k]) * (double(t.at[k]) + 0.5);
    }
    CHECK(sum == doctest::Approx(1).epsilon(1e-6));
    CHECK(line == doctest::Approx(at).epsilon(1e-6));
  }
  CHECK(taps_at(3.5, 8).weight[1] == 1);
  CHECK(taps_at(3.5, 8).at[1] == 3);
  CHECK(taps_at(-40, 8).at[3] == 0);
  CHECK(taps_at(400, 8).at[0] == 7);
}

TEST_CASE("heat map: values are the class's probabilities, stretched to what the colours show") {
  std::vector<float> const patches{0, std::log(3.0f), 0, 0, std::log(9.0f), 0};  // 3 patches of 2 classes
  patch_map map = class_probability(patches, {1, 3}, 2, 1);
  CHECK(map.value[0] == doctest::Approx(0.75));
  CHECK(map.value[1] == doctest::Approx(0.5));
  CHECK(map.value[2] == doctest::Approx(0.1));
  auto const [least, most] = stretch(map);
  CHECK(least == doctest::Approx(0.1));
  CHECK(most == doctest::Approx(0.75));
  CHECK(map.value[0] == 1);
  CHECK(map.value[2] == 0);
  patch_map flat{{1, 2}, {0.4f, 0.4f}};
  stretch(flat);
  CHECK(flat.value == std::vector{0.0f, 0.0f});
}

TEST_CASE("heat map: not a number is drawn as the lowest colour, a picture of one pixel as one") {
  CHECK(heat_colour(std::nanf("")) == heat_colour(0));
  CHECK(heat_colour(7) == heat_colour(1));
  patch_map const map{{2, 2}, std::vector<float>(4, std::nanf(""))};
  dm2::picture const out = draw_heatmap(dm2::picture{1, 1}, map, dm2::evaluation_region(1, 1, {64, 64}));
  CHECK(out.pixels.size() == 3);
}

TEST_CASE("heat map files: a name is given once, and the pattern's braces are filled") {
  std::vector<std::filesystem::path> const pictures{"a/x.jpg", "b/x.jpeg", "c/y.png"};
  auto const files = heatmap_files("maps-{}-here.png", pictures);
  CHECK(files == std::vector<std::filesystem::path>{"maps-x-here.png", "maps-x-2-here.png", "maps-y-here.png"});
  CHECK_THROWS_AS((void)heatmap_files("one.png", pictures), usage_error);
  CHECK_THROWS_AS((void)heatmap_files("{}.jpg", pictures), usage_error);
  CHECK_THROWS_AS((void)heatmap_files("c/{}.png", pictures), usage_error);
}

TEST_CASE("heat map files: no name of a picture leads out of the folder") {
  std::vector<std::filesystem::path> const pictures{"a/...png", "a/..png", "b/...png"};
  scratch_folder const folder;
  auto const files = heatmap_files((folder / "{}/map.png").string(), pictures);
  CHECK(files ==
        std::vector<std::filesystem::path>{folder / "__/map.png", folder / "_/map.png", folder / "__-2/map.png"});
}
