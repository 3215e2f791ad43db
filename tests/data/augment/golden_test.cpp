/// @file
/// Every augmentation against what Pillow and SciPy made of the same picture and label map.
#include <dm2/data/augment/apply.hpp>

#include <doctest/doctest.h>

#include <array>
#include <cstdlib>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "support/golden.hpp"

using namespace dm2;
using namespace dm2::test;

namespace {

/// A golden case: NAME, NAME_ARGUMENT or NAME_ARGUMENT_FILTER.
struct golden_case {
  augment_operation operation{};
  double argument = 0;
  resize_filter filter = resize_filter::bilinear;
};

golden_case parse(std::string const& name) {
  golden_case c;
  std::size_t const first = name.find('_');
  std::string const stem = name.substr(0, first);
  bool found = false;
  for (std::size_t i = 0; i < augment_operation_count; ++i) {
    std::string const known{augment_operation_names[i]};
    if (known == stem || known == stem + "Increasing") {
      c.operation = static_cast<augment_operation>(i);
      found = true;
    }
  }
  REQUIRE_MESSAGE(found, name);
  if (first != std::string::npos) c.argument = std::strtod(name.c_str() + first + 1, nullptr);
  if (name.ends_with("_bicubic")) c.filter = resize_filter::bicubic;
  return c;
}

picture picture_of(golden const& g, std::string const& name) {
  auto const& shape = g.tensor(name).shape;
  REQUIRE(shape.size() == 3);
  picture p{static_cast<int>(shape[0]), static_cast<int>(shape[1])};
  p.pixels = g.get<std::uint8_t>(name);
  return p;
}

label_map_data map_of(golden const& g, std::string const& name) {
  auto const& shape = g.tensor(name).shape;
  REQUIRE(shape.size() == 4);
  return {static_cast<int>(shape[2]), static_cast<int>(shape[3]), g.get<float>(name)};
}

}  // namespace

TEST_CASE("augment: every golden picture to the byte, every golden label map to the bit") {
  golden const g{"augment.safetensors"};
  std::set<augment_operation> seen;
  int pictures = 0, maps = 0;
  for (stored_tensor const& t : g.file().tensors()) {
    std::string const name{t.name};
    if (!name.ends_with("/image")) continue;
    std::string const stem = name.substr(0, name.size() - 6);
    CAPTURE(stem);
    golden_case const c = parse(stem);
    seen.insert(c.operation);
    picture p = picture_of(g, "image");
    label_map_data const before = map_of(g, "label");
    label_map_data map = before;
    apply(c.operation, p, &map, c.argument, c.filter);
    picture const want = picture_of(g, name);
    std::size_t different = 0;
    for (std::size_t i = 0; i < want.pixels.size(); ++i) different += std::size_t(p.pixels[i] != want.pixels[i]);
    CHECK(p.pixels.size() == want.pixels.size());
    CHECK(different == 0);
    CHECK(g.has(stem + "/label") == is_geometric(c.operation));
    CHECK(map.values == (is_geometric(c.operation) ? map_of(g, stem + "/label") : before).values);
    ++pictures;
    maps += int(is_geometric(c.operation));
  }
  CHECK(seen.size() == augment_operation_count);
  CHECK(pictures == 43);
  CHECK(maps == 20);
}
