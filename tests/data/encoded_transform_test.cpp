// The transforms of pictures that are not decoded yet, against those of decoded ones.
#include <dm2/data/encoded_picture.hpp>
#include <dm2/data/training_transform.hpp>
#include <dm2/data/transform.hpp>

#include "data/golden_images.hpp"
#include "data/make_label_map.hpp"

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

constexpr int height = 24, width = 32;

bool same(std::vector<float> const& a, std::vector<float> const& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

TEST_CASE("training_transform: an encoded picture becomes what the decoded one does, bit for bit, map and stream too") {
  int parts = 0, samples = 0;
  for (char const* name : golden_pictures) {
    CAPTURE(name);
    auto const file = file_bytes(golden_image(name));
    picture const whole = decode_image(file, name);
    if (whole.height > 1000 || whole.width > 1000) continue;
    encoded_picture encoded{file, name};
    for (std::uint64_t i = 0; i < 40; ++i, ++samples) {
      augmentation a;
      a.operation_probability = 0.6;
      random_stream one{4, 1, i}, other = one;
      label_map_data map{2, 3, label_map_values(2, 3, 4)}, map_other = map;
      std::vector<float> want(3 * height * width), got(want.size());
      crop_fraction const c = training_transform(whole, &map, a, height, width, one, want);
      crop_fraction const d = training_transform(encoded, &map_other, a, height, width, other, got);
      CHECK(same(got, want));
      CHECK(same(map.values, map_other.values));
      CHECK(c.top == d.top);
      CHECK(c.left == d.left);
      CHECK(c.height == d.height);
      CHECK(c.width == d.width);
      CHECK(one.bits() == other.bits());
      drawn_sample const s = draw_sample(a, whole.height, whole.width, height, width, {4, 1, i});
      pixel_box const part = needed_part(s, whole.height, whole.width);
      parts += part.height < whole.height || part.width < whole.width;
    }
  }
  CHECK(parts > samples / 4);
}

TEST_CASE("training_transform: parts suffice for every operation that looks at no more than neighbours") {
  auto const file = file_bytes(golden_image("photo.jpg"));
  picture const whole = decode_image(file, "photo");
  encoded_picture encoded{file, "photo"};
  for (std::size_t k = 0; k < augment_operation_count; ++k) {
    auto const operation = augment_operation(k);
    CAPTURE(name_of(operation));
    for (int const repeats : {1, 3})
      for (std::uint64_t i = 0; i < 12; ++i) {
        augmentation const a;
        drawn_sample d = draw_sample(a, whole.height, whole.width, height, width, {8, 0, i});
        d.operations.assign(std::size_t(repeats), {operation, operation_argument(operation, 9, i % 2 == 0), {}});
        if (i < 4) d.crop = {i < 2 ? 0 : whole.height - 2, i % 2 == 0 ? 0 : whole.width - 2, 2, 2};
        drawn_sample e = d;
        pixel_box const part = needed_part(d, whole.height, whole.width), all{0, 0, whole.height, whole.width};
        CHECK(operation_reach(operation).has_value() == (part.height < whole.height || part.width < whole.width));
        std::vector<float> want(3 * height * width), got(want.size());
        apply_drawn(d, whole, all, whole.height, whole.width, nullptr, a, {height, width}, want);
        apply_drawn(e, encoded.part(part), part, whole.height, whole.width, nullptr, a, {height, width}, got);
        CHECK(same(got, want));
      }
  }
}

TEST_CASE("evaluation_transform: an encoded picture becomes what the decoded one does") {
  for (char const* name : golden_pictures) {
    CAPTURE(name);
    auto const file = file_bytes(golden_image(name));
    picture const whole = decode_image(file, name);
    encoded_picture encoded{file, name};
    for (image_extent const crop : {image_extent{224, 224}, {32, 32}, {17, 60}, {1, 1}, {400, 7}}) {
      CHECK(evaluation_transform(encoded, crop) == evaluation_transform(whole, crop));
      CHECK(evaluation_transform(encoded, crop, {9, 9}) == evaluation_transform(whole, crop, {9, 9}));
    }
  }
}
