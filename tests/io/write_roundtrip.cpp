/// @file
/// Writes one safetensors file with every element type for python_roundtrip.py, which knows what has to be in it.
#include <dm2/io/safetensors_write.hpp>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <span>
#include <string>
#include <vector>

namespace {
/// [3, 4] elements, element k being k - 5 (k for unsigned, k % 2 for bool).
template <class T>
std::vector<T> ramp(int from) {
  std::vector<T> v;
  for (int k = 0; k < 12; ++k) v.push_back(static_cast<T>(k + from));
  return v;
}
template <class T>
dm2::stored_tensor of(char const* name, dm2::dtype type, std::vector<T> const& v, std::vector<std::int64_t> shape,
                      std::vector<std::int64_t> strides) {
  return {name, type, std::move(shape), std::move(strides), reinterpret_cast<std::byte const*>(v.data())};
}
}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2) {
    std::fputs("usage: write_roundtrip OUT.safetensors\n", stderr);
    return EXIT_FAILURE;
  }
  auto const u8 = ramp<std::uint8_t>(0), flags = std::vector<std::uint8_t>{0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1};
  auto const i8 = ramp<std::int8_t>(-5);
  auto const i16 = ramp<std::int16_t>(-5);
  auto const i32 = ramp<std::int32_t>(-5);
  auto const i64 = ramp<std::int64_t>(-5);
  auto const f32 = ramp<float>(-5);
  auto const f64 = ramp<double>(-5);
  // the halves 1, 1.5, 2, 3 thrice
  std::vector<std::uint16_t> f16;
  for (int k = 0; k < 3; ++k) f16.insert(f16.end(), {0x3C00, 0x3E00, 0x4000, 0x4200});
  std::vector<dm2::stored_tensor> const tensors{
      of("u8", dm2::dtype::u8, u8, {3, 4}, {4, 1}),    of("bool", dm2::dtype::boolean, flags, {3, 4}, {4, 1}),
      of("i8", dm2::dtype::i8, i8, {3, 4}, {4, 1}),    of("i16", dm2::dtype::i16, i16, {3, 4}, {4, 1}),
      of("i32", dm2::dtype::i32, i32, {3, 4}, {4, 1}), of("i64", dm2::dtype::i64, i64, {3, 4}, {4, 1}),
      of("f16", dm2::dtype::f16, f16, {3, 4}, {4, 1}), of("f32", dm2::dtype::f32, f32, {3, 4}, {4, 1}),
      of("f64", dm2::dtype::f64, f64, {3, 4}, {4, 1}), of("turned", dm2::dtype::f32, f32, {4, 3}, {1, 4}),
      of("scalar", dm2::dtype::i64, i64, {}, {}),      of("empty", dm2::dtype::f32, f32, {0, 4}, {4, 1})};
  dm2::write_safetensors(argv[1], tensors, {{"format", "pt"}, {"text", "caf\xC3\xA9 \"quoted\"\n"}});
  return EXIT_SUCCESS;
} catch (std::exception const& error) {
  std::fprintf(stderr, "write_roundtrip: %s\n", error.what());
  return EXIT_FAILURE;
}
