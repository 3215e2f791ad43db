/// @file
/// Each operation on the device, against Pillow and the host.
#include <dm2/data/augment/apply.hpp>

#include "cuda/augment/case.cuh"
#include "support/golden.hpp"

#include <algorithm>
#include <cstdlib>
#include <string>

using namespace dm2;
using namespace dm2::test;

namespace {

/// Puts a picture with one operation, and nothing else, into place i.
void put(raw_pictures& raw, int i, picture const& p, drawn_operation const& o) {
  drawn_sample d;
  d.operations = {o};
  d.crop = {0, 0, p.height, p.width};
  raw_place const place{raw, i};
  picture_task const t =
      plan_sample(d, augmentation{}, p.height, p.width, raw.size.height, raw.size.width, place.steps());
  std::uint8_t* const to = place.take(t);
  REQUIRE(to != nullptr);
  picture const part = detail::copy_box(p, t.part);
  std::copy(part.pixels.begin(), part.pixels.end(), to);
}

/// One picture after one operation, on the device.
std::vector<std::uint8_t> on_device(picture const& p, drawn_operation const& o) {
  raw_pictures raw = make_raw(1, {p.height, p.width}, 1);
  put(raw, 0, p, o);
  return finished_on_device{}.bytes(raw);
}

std::vector<double> arguments_of(augment_operation o) {
  using enum augment_operation;
  switch (o) {
    case rotate:
      return {0, 7.5, -30, 90, 180, 361.25};
    case shear_x:
    case shear_y:
      return {0, 0.21, -0.3, 5};
    case translate_x:
    case translate_y:
      return {0, 0.4, -0.45, 1.5};
    case posterize:
      return {0, 3, 8, 11};
    case solarize:
      return {0, 100, 256};
    case solarize_add:
      return {0, 60, -300};
    case color:
    case contrast:
    case brightness:
    case sharpness:
      return {0, 0.1, 0.55, 1, 1.9};
    default:
      return {0};
  }
}

}  // namespace

TEST_CASE("augmenter: every golden picture to the byte") {
  golden const g{"augment.safetensors"};
  auto const& shape = g.tensor("image").shape;
  picture before{int(shape[0]), int(shape[1])};
  before.pixels = g.get<std::uint8_t>("image");
  int pictures = 0;
  for (stored_tensor const& t : g.file().tensors()) {
    std::string const name{t.name};
    if (!name.ends_with("/image")) continue;
    CAPTURE(name);
    std::string const stem = name.substr(0, name.find_first_of("_/"));
    drawn_operation o{};
    for (std::size_t i = 0; i < augment_operation_count; ++i)
      if (augment_operation_names[i] == stem || augment_operation_names[i] == stem + "Increasing")
        o.operation = augment_operation(i);
    if (auto const at = name.find('_'); at != std::string::npos)
      o.argument = std::strtod(name.c_str() + at + 1, nullptr);
    o.filter = name.ends_with("_bicubic/image") ? resize_filter::bicubic : resize_filter::bilinear;
    CHECK(different(on_device(before, o), g.get<std::uint8_t>(name)) == 0);
    ++pictures;
  }
  CHECK(pictures == 43);
}

TEST_CASE("augmenter: every operation has the host's bytes, at sizes 1, odd and around a block's 256 pixels") {
  constexpr int sizes[][2] = {{1, 1}, {1, 7}, {2, 2}, {3, 3}, {5, 51}, {16, 16}, {15, 17}, {257, 1}, {33, 31}};
  std::mt19937 random{11};
  for (auto const [height, width] : sizes) {
    CAPTURE(height);
    CAPTURE(width);
    std::vector<drawn_operation> operations;
    for (std::size_t i = 0; i < augment_operation_count; ++i)
      for (double const argument : arguments_of(augment_operation(i)))
        for (auto const filter : {resize_filter::bilinear, resize_filter::bicubic})
          operations.push_back({augment_operation(i), argument, filter});
    raw_pictures raw = make_raw(int(operations.size()), {height, width}, 1);
    std::vector<std::uint8_t> want;
    for (std::size_t i = 0; i < operations.size(); ++i) {
      picture p = random_picture(height, width, random);
      put(raw, int(i), p, operations[i]);
      apply(operations[i].operation, p, nullptr, operations[i].argument, operations[i].filter);
      want.insert(want.end(), p.pixels.begin(), p.pixels.end());
    }
    auto const got = finished_on_device{}.bytes(raw);
    std::size_t const each = raw.finished_bytes();
    for (std::size_t i = 0; i < operations.size(); ++i) {
      CAPTURE(name_of(operations[i].operation));
      CAPTURE(operations[i].argument);
      auto const at = std::ptrdiff_t(i * each);
      CHECK(std::equal(got.begin() + at, got.begin() + at + std::ptrdiff_t(each), want.begin() + at));
    }
  }
}
