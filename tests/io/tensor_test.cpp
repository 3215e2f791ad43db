#include <dm2/io/tensor.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <vector>

using dm2::dtype;
using dm2::stored_tensor;

namespace {
template <class T>
stored_tensor view(std::vector<T> const& values, dtype type, std::vector<std::int64_t> shape,
                   std::vector<std::int64_t> strides, std::size_t offset = 0) {
  return {"t", type, std::move(shape), std::move(strides), reinterpret_cast<std::byte const*>(values.data() + offset)};
}
template <class T>
stored_tensor flat(std::vector<T> const& values, dtype type) {
  return view(values, type, {static_cast<std::int64_t>(values.size())}, {1});
}
}  // namespace

TEST_CASE("copy_to: follows any strides in row-major order") {
  std::vector<float> memory(2 * 3 * 5 * 7);
  std::iota(memory.begin(), memory.end(), 0.0f);
  // memory is [5, 2, 7, 3]; the view is its permutation [2, 3, 5, 7], from element 0
  auto const t = view(memory, dtype::f32, {2, 3, 5, 7}, {21, 1, 42, 3});
  CHECK_FALSE(t.contiguous());
  auto const got = dm2::to_vector<double>(t);
  bool same = got.size() == memory.size();
  std::size_t k = 0;
  for (std::size_t a = 0; a < 2; ++a)
    for (std::size_t b = 0; b < 3; ++b)
      for (std::size_t c = 0; c < 5; ++c)
        for (std::size_t d = 0; d < 7; ++d)
          same = same && got[k++] == static_cast<double>(((c * 2 + a) * 7 + d) * 3 + b);
  CHECK(same);
}

TEST_CASE("copy_to: offsets, steps, repeated and absent elements") {
  std::vector<std::int32_t> const memory{0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
  CHECK(dm2::to_vector<int>(view(memory, dtype::i32, {3}, {3}, 1)) == std::vector<int>{1, 4, 7});
  CHECK(dm2::to_vector<int>(view(memory, dtype::i32, {2, 3}, {0, 2}, 2)) == std::vector<int>{2, 4, 6, 2, 4, 6});
  CHECK(dm2::to_vector<int>(view(memory, dtype::i32, {}, {}, 9)) == std::vector<int>{9});
  CHECK(dm2::to_vector<int>(view(memory, dtype::i32, {4, 0, 2}, {1, 1, 1})).empty());
  CHECK(view(memory, dtype::i32, {1, 5, 1, 2}, {77, 2, 99, 1}).contiguous());  // an axis of 1 has no step
}

TEST_CASE("copy_to: unaligned data") {
  std::vector<char> bytes(1 + 3 * sizeof(double));
  double const values[] = {1.5, -2.25, 1e300};
  std::memcpy(bytes.data() + 1, values, sizeof values);
  CHECK(dm2::to_vector<double>(view(bytes, dtype::f64, {3}, {1}, 1)) == std::vector<double>{1.5, -2.25, 1e300});
}

TEST_CASE("copy_to: floating-point types") {
  float const inf = std::numeric_limits<float>::infinity();
  std::vector<std::uint16_t> const half{0x3C00, 0xC000, 0x0001, 0x7C00, 0xFC00, 0x8000};
  auto const h = dm2::to_vector<float>(flat(half, dtype::f16));
  CHECK(h == std::vector<float>{1, -2, std::ldexp(1.0f, -24), inf, -inf, 0});
  CHECK(std::signbit(h[5]));
  std::vector<std::uint16_t> const brain{0x3F80, 0xC040, 0x0001, 0x7F80};
  CHECK(dm2::to_vector<double>(flat(brain, dtype::bf16)) ==
        std::vector<double>{1, -3, std::ldexp(1.0, -133), HUGE_VAL});
  CHECK(std::isnan(dm2::to_vector<float>(flat(std::vector<std::uint16_t>{0x7E00}, dtype::f16))[0]));
  std::vector<double> const wide{0.1, 1e-320, -1.0000000001};
  CHECK(dm2::to_vector<double>(flat(wide, dtype::f64)) == wide);
  CHECK(dm2::to_vector<float>(flat(wide, dtype::f64)) == std::vector<float>{0.1f, 0.0f, -1.0f});
}

TEST_CASE("copy_to: integers keep their value, or the nearest one that the type has") {
  std::int64_t const big = (std::int64_t{1} << 53) + 1, least = std::numeric_limits<std::int64_t>::min();
  std::vector<std::int64_t> const values{-1, big, least};
  CHECK(dm2::to_vector<std::int64_t>(flat(values, dtype::i64)) == values);
  CHECK(dm2::to_vector<double>(flat(values, dtype::i64)) == std::vector<double>{-1, 9007199254740992.0, -0x1p63});
  CHECK(dm2::to_vector<float>(flat(std::vector<std::int8_t>{-128, 127}, dtype::i8)) == std::vector<float>{-128, 127});
  CHECK(dm2::to_vector<float>(flat(std::vector<std::uint8_t>{0, 255}, dtype::u8)) == std::vector<float>{0, 255});
  CHECK(dm2::to_vector<int>(flat(std::vector<std::int16_t>{-32768, 9}, dtype::i16)) == std::vector<int>{-32768, 9});
  CHECK(dm2::to_vector<float>(flat(std::vector<std::uint16_t>{65535}, dtype::u16)) == std::vector<float>{65535});
  CHECK(dm2::to_vector<double>(flat(std::vector<std::uint32_t>{4294967295}, dtype::u32)) ==
        std::vector<double>{4294967295.0});
  CHECK_THROWS_AS((void)dm2::to_vector<std::int64_t>(flat(std::vector<std::uint64_t>{~std::uint64_t{0}}, dtype::u64)),
                  std::out_of_range);
  CHECK(dm2::to_vector<int>(flat(std::vector<std::uint8_t>{0, 1, 7}, dtype::boolean)) == std::vector<int>{0, 1, 1});
}

TEST_CASE("copy_to: refuses fractions as integers, integers that do not fit, and a wrong number of places") {
  CHECK_THROWS_WITH_AS((void)dm2::to_vector<int>(flat(std::vector<float>{1}, dtype::f32)),
                       "t: holds F32, integers were asked for", std::invalid_argument);
  CHECK_THROWS_WITH_AS((void)dm2::to_vector<std::uint8_t>(flat(std::vector<std::int64_t>{3, -1}, dtype::i64)),
                       "t: -1 does not fit the integers asked for", std::out_of_range);
  std::vector<float> const source{1, 2, 3};
  std::vector<float> out{9, 9};
  CHECK_THROWS_WITH_AS(dm2::copy_to(flat(source, dtype::f32), std::span<float>{out}), "t: got 2 places for 3 elements",
                       dm2::shape_error);
  CHECK(out == std::vector<float>{9, 9});
}

TEST_CASE("element_count: refuses negative extents and products that overflow") {
  using dm2::detail::element_count;
  CHECK(element_count(std::vector<std::int64_t>{}) == 1);
  CHECK(element_count(std::vector<std::int64_t>{2, 0, 5}) == 0);
  CHECK_FALSE(element_count(std::vector<std::int64_t>{2, -1}).has_value());
  CHECK_FALSE(element_count(std::vector<std::int64_t>{std::int64_t{1} << 32, std::int64_t{1} << 32}).has_value());
  CHECK_FALSE(element_count(std::vector<std::int64_t>{std::int64_t{1} << 61}).has_value());
}

TEST_CASE("dtype: names and widths go together") {
  CHECK(dm2::dtype_named("BF16") == dtype::bf16);
  CHECK_FALSE(dm2::dtype_named("F8_E4M3").has_value());
  CHECK(dm2::size_of(dtype::bf16) == 2);
  CHECK(dm2::name_of(dtype::boolean) == "BOOL");
  CHECK(dm2::dtype_named("U16") == dtype::u16);
  CHECK(dm2::size_of(dtype::u64) == 8);
  CHECK(dm2::is_floating(dtype::bf16));
  CHECK_FALSE(dm2::is_floating(dtype::i64));
}
