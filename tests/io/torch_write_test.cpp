// Torch files as dm2 writes them: what is read back, and what the format asks for.
#include <dm2/data/label_map_file.hpp>
#include <dm2/io/half.hpp>
#include <dm2/io/tensor_file.hpp>
#include <dm2/io/torch_write.hpp>

#include "io/scratch.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

using namespace dm2;

namespace {

template <class T>
stored_tensor view(std::vector<T> const& values, dtype type, std::vector<std::int64_t> shape,
                   std::vector<std::int64_t> strides) {
  stored_tensor t;
  t.type = type;
  t.shape = std::move(shape);
  t.strides = std::move(strides);
  t.data = reinterpret_cast<std::byte const*>(values.data());
  return t;
}

std::string text_of(std::vector<std::byte> const& bytes) {
  return {reinterpret_cast<char const*>(bytes.data()), bytes.size()};
}

}  // namespace

TEST_CASE("float_to_half: every half comes back from its float") {
  int wrong = 0;
  for (std::uint32_t h = 0; h < 0x10000; ++h) {
    float const f = half_to_float(std::uint16_t(h));
    if (!std::isnan(f)) wrong += float_to_half(f) == h ? 0 : 1;
  }
  CHECK(wrong == 0);
  CHECK(std::isnan(half_to_float(float_to_half(std::numeric_limits<float>::quiet_NaN()))));
}

TEST_CASE("float_to_half: between two halves the nearer is taken, half way the even one") {
  int wrong = 0;
  for (std::uint32_t h = 0; h < 0x7BFF; ++h) {
    float const low = half_to_float(std::uint16_t(h)), high = half_to_float(std::uint16_t(h + 1));
    float const middle = low + (high - low) / 2;  // exact: a float has 13 bits more
    std::uint32_t const even = (h & 1u) == 0 ? h : h + 1;
    wrong += float_to_half(middle) == even ? 0 : 1;
    wrong += float_to_half(std::nextafter(middle, 0.0f)) == h ? 0 : 1;
    wrong += float_to_half(std::nextafter(-middle, -1e9f)) == (0x8000u | (h + 1)) ? 0 : 1;
  }
  CHECK(wrong == 0);
  CHECK(float_to_half(65519.996f) == 0x7BFF);
  CHECK(float_to_half(65520.0f) == 0x7C00);
  CHECK(float_to_half(-std::numeric_limits<float>::infinity()) == 0xFC00);
}

TEST_CASE("crc32: the check value of its catalogue entry") {
  std::string const digits = "123456789";
  CHECK(crc32(std::as_bytes(std::span{digits})) == 0xCBF43926u);
  CHECK(crc32({}) == 0);
}

TEST_CASE("torch_write: a label map is read as it was written, and has the golden file's contents") {
  test::scratch_folder const folder;
  label_map_data const golden_map = read_label_map(test::golden_file("token_labels/zip.pt"));
  std::vector<std::uint16_t> halves;
  for (float v : golden_map.values) halves.push_back(float_to_half(v));
  std::int64_t const h = golden_map.height, w = golden_map.width;
  write_torch(folder.path() / "map.pt", view(halves, dtype::f16, {2, 5, h, w}, {5 * h * w, h * w, w, 1}));
  label_map_data const map = read_label_map(folder.path() / "map.pt");
  CHECK(map.height == golden_map.height);
  CHECK(map.width == golden_map.width);
  CHECK(map.values == golden_map.values);
}

TEST_CASE("torch_write: every element type and any strides come back") {
  test::scratch_folder const folder;
  auto const path = folder.path() / "t.pt";
  std::vector<double> numbers(70000);
  std::iota(numbers.begin(), numbers.end(), -3.5);
  write_torch(path, view(numbers, dtype::f64, {70000}, {1}));  // a count of three bytes
  CHECK(to_vector<double>(tensor_file{path}.tensors().front()) == numbers);
  std::vector<std::int32_t> const matrix{1, 2, 3, 4, 5, 6};
  write_torch(path, view(matrix, dtype::i32, {3, 2}, {1, 3}));
  tensor_file const transposed{path};
  CHECK(transposed.tensors().front().shape == std::vector<std::int64_t>{3, 2});
  CHECK(to_vector<std::int32_t>(transposed.tensors().front()) == std::vector<std::int32_t>{1, 4, 2, 5, 3, 6});
  std::vector<std::uint8_t> const one{7};
  for (dtype type : {dtype::u8, dtype::i8, dtype::boolean}) {
    write_torch(path, view(one, type, {}, {}));
    tensor_file const scalar{path};
    CHECK(scalar.tensors().front().type == type);
    CHECK(scalar.tensors().front().size() == 1);
  }
}

TEST_CASE("torch_write: data begin at multiples of 64 bytes, and equal tensors are equal files") {
  std::vector<float> const values{1, 2, 3};
  std::string const file = text_of(encode_torch(view(values, dtype::f32, {3}, {1})));
  CHECK(file == text_of(encode_torch(view(values, dtype::f32, {3}, {1}))));
  std::string const data{reinterpret_cast<char const*>(values.data()), 12};
  REQUIRE(file.find(data) != std::string::npos);
  CHECK(file.find(data) % 64 == 0);
}
