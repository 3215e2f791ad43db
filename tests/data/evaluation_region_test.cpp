#include <dm2/data/evaluation_region.hpp>
#include <dm2/data/picture.hpp>

#include <doctest/doctest.h>

#include <array>
#include <cmath>

using namespace dm2;

namespace {
/// A picture whose red channel is the distance from the left and whose green channel is the distance from the top.
picture ramps(int height, int width) {
  picture p{height, width};
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) {
      p.row(y)[3 * x] = std::uint8_t(x);
      p.row(y)[3 * x + 1] = std::uint8_t(y);
    }
  return p;
}
}  // namespace

TEST_CASE("evaluation_region: a pixel of the crop shows the place of the picture that the region maps it to") {
  for (auto const& sides : {std::array{240, 250}, {250, 163}, {120, 255}, {255, 255}, {90, 91}, {31, 200}})
    for (image_extent const crop : {image_extent{64, 64}, {48, 32}, {56, 112}}) {
      int const height = sides[0], width = sides[1];
      CAPTURE(height);
      CAPTURE(width);
      CAPTURE(crop.width);
      picture const kept = evaluation_transform(ramps(height, width), crop);
      picture_region const r = evaluation_region(height, width, crop);
      for (int y = 5; y < crop.height - 5; y += 7)  // away from the edges, where the filter is cut off
        for (int x = 5; x < crop.width - 5; x += 7) {
          double const column = r.left + (x + 0.5) / crop.width * r.width - 0.5,
                       row = r.top + (y + 0.5) / crop.height * r.height - 0.5;
          CHECK(std::abs(kept.row(y)[3 * x] - column) <= 1.0);  // two roundings to whole bytes
          CHECK(std::abs(kept.row(y)[3 * x + 1] - row) <= 1.0);
        }
    }
}

TEST_CASE("evaluation_region: the whole crop lies in the picture, up to a pixel's fraction") {
  for (int height = 1; height < 60; height += 7)
    for (int width = 1; width < 60; ++width) {
      picture_region const r = evaluation_region(height, width, {64, 64});
      CHECK(r.top >= 0);
      CHECK(r.left >= 0);
      CHECK(r.top + r.height <= height + 1e-9);
      CHECK(r.left + r.width <= width + 1e-9);
    }
}

TEST_CASE("evaluation_region: empty pictures and crops are errors") {
  CHECK_THROWS_AS((void)evaluation_region(0, 5, {64, 64}), shape_error);
  CHECK_THROWS_AS((void)evaluation_region(5, 5, {0, 64}), shape_error);
}
