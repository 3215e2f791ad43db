/// @file
/// Reading label maps.
#include <dm2/core/error.hpp>
#include <dm2/data/label_map_file.hpp>
#include <dm2/io/safetensors_write.hpp>
#include <dm2/io/tensor_file.hpp>

#include <doctest/doctest.h>

#include "data/golden_images.hpp"
#include "data/make_label_map.hpp"
#include "io/refusal.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

using namespace dm2;
using namespace dm2::test;
namespace fs = std::filesystem;

namespace {

fs::path golden_map(std::string const& name) { return fs::path{DM2_GOLDEN_DIR} / "token_labels" / name; }

/// Why a file with these values at these places is refused for 10 classes; the map is 2 x 3.
std::string refusal_of(std::size_t at, float value) {
  scratch_folder const folder;
  std::vector<float> values = label_map_values(2, 3, 10);
  values[at] = value;
  fs::path const path = folder.path() / "map.pt";
  write_label_map(path, values, 2, 3);
  return refusal(path, [&] { (void)read_label_map(path, 10); });
}

/// Why a file with tensors of these shapes is refused.
std::string refusal_of_shapes(std::vector<std::vector<std::int64_t>> const& shapes, dtype type = dtype::f32) {
  scratch_folder const folder;
  std::vector<float> const values(std::size_t{2} * 5 * 600);
  std::vector<stored_tensor> tensors;
  for (auto const& shape : shapes) {
    tensors.push_back(tensor_view("t" + std::to_string(tensors.size()), values, shape));
    tensors.back().type = type;
  }
  fs::path const path = folder.path() / "map.safetensors";
  write_safetensors(path, tensors);
  return refusal(path, [&] { (void)read_label_map(path, 10); });
}

}  // namespace

TEST_CASE("read_label_map: each layout of the golden files gives the values that torch stored") {
  tensor_file const expected{golden_map("expected.safetensors")};
  auto const want = to_vector<float>(expected.at("label"));
  for (char const* name : {"zip.pt", "legacy.pt", "contiguous.pt", "expected.safetensors"}) {
    CAPTURE(name);
    label_map_data const got = read_label_map(golden_map(name), 1000);
    CHECK(got.height == 18);
    CHECK(got.width == 18);
    CHECK(got.values == want);
  }
  CHECK(read_label_map(golden_map("zip.pt")).values == want);
}

TEST_CASE("read_label_map: a damaged file and one that holds code are refused by name") {
  for (char const* name : {"bad_truncated.pt", "bad_code.pt", "no_such.pt"}) {
    CAPTURE(name);
    fs::path const path = golden_map(name);
    CHECK(refusal(path, [&] { (void)read_label_map(path, 1000); }).size() > 10);
  }
}

TEST_CASE("read_label_map: height and width are told apart") {
  scratch_folder const folder;
  fs::path const path = folder.path() / "map.pt";
  auto const values = label_map_values(2, 3, 10);
  write_label_map(path, values, 2, 3);
  label_map_data const got = read_label_map(path, 10);
  CHECK(got.height == 2);
  CHECK(got.width == 3);
  CHECK(got.values == values);
}

TEST_CASE("read_label_map: a value that is no score or no class is named with its place") {
  constexpr std::size_t half = 30;
  float const nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  CHECK(contains(refusal_of(0, nan), "score [0, 0, 0] is"));
  CHECK(contains(refusal_of(29, -inf), "score [4, 1, 2] is -inf, expected a finite number"));
  CHECK(contains(refusal_of(half + 7, -1), "class index [1, 0, 1] is -1"));
  CHECK(contains(refusal_of(half + 4, 10), "class index [0, 1, 1] is 10"));
  CHECK(contains(refusal_of(half, 10), "whole number from 0 to 9"));
  CHECK(contains(refusal_of(half, 1.5f), "class index [0, 0, 0] is 1.5"));
  CHECK(contains(refusal_of(half, nan), "class index [0, 0, 0] is"));
  CHECK(contains(refusal_of(half, 3e9f), "class index [0, 0, 0] is 3"));
}

TEST_CASE("read_label_map: the number of classes is what the indices are held against") {
  fs::path const path = golden_map("zip.pt");
  auto const values = read_label_map(path, 1000).values;
  float const last = *std::max_element(values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  CHECK_NOTHROW((void)read_label_map(path, int(last) + 1));
  CHECK_THROWS_AS((void)read_label_map(path, int(last)), file_error);
}

TEST_CASE("read_label_map: other shapes, types and numbers of tensors are refused with what was found") {
  CHECK(contains(refusal_of_shapes({{2, 4, 3, 3}}), "shape [2, 4, 3, 3]"));
  CHECK(contains(refusal_of_shapes({{1, 5, 3, 3}}), "shape [1, 5, 3, 3]"));
  CHECK(contains(refusal_of_shapes({{2, 5, 9}}), "shape [2, 5, 9]"));
  CHECK(contains(refusal_of_shapes({{2, 5, 0, 3}}), "shape [2, 5, 0, 3]"));
  CHECK(contains(refusal_of_shapes({{2, 5, 3, 3}, {2, 5, 3, 3}}), "holds 2 tensors"));
  CHECK(contains(refusal_of_shapes({}), "holds no tensor"));
  CHECK(contains(refusal_of_shapes({{2, 5, 1, 513}}), "at most 512 points"));
  CHECK(contains(refusal_of_shapes({{2, 5, 513, 1}}), "at most 512 points"));
  CHECK(contains(refusal_of_shapes({{2, 5, 3, 3}}, dtype::i32), "type I32"));
}
