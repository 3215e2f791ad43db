/// @file
/// Tensors as files hold them: a view of stored bytes, and its conversion to numbers.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/io/bytes.hpp>
#include <dm2/io/half.hpp>

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace dm2 {

/// The element types that files may hold.
enum class dtype : std::uint8_t { f64, f32, f16, bf16, i64, i32, i16, i8, u8, boolean, u64, u32, u16 };

namespace detail {
struct dtype_row {
  std::string_view name;
  std::size_t size;
};
inline constexpr std::array<dtype_row, 13> dtype_rows{{{"F64", 8},
                                                       {"F32", 4},
                                                       {"F16", 2},
                                                       {"BF16", 2},
                                                       {"I64", 8},
                                                       {"I32", 4},
                                                       {"I16", 2},
                                                       {"I8", 1},
                                                       {"U8", 1},
                                                       {"BOOL", 1},
                                                       {"U64", 8},
                                                       {"U32", 4},
                                                       {"U16", 2}}};
}  // namespace detail

/// Bytes an element takes.
[[nodiscard]] constexpr std::size_t size_of(dtype type) noexcept {
  return detail::dtype_rows[static_cast<std::size_t>(type)].size;
}
/// The name that safetensors uses: "F32", "BF16", "BOOL", ...
[[nodiscard]] constexpr std::string_view name_of(dtype type) noexcept {
  return detail::dtype_rows[static_cast<std::size_t>(type)].name;
}
/// The type of that safetensors name, or nothing.
[[nodiscard]] constexpr std::optional<dtype> dtype_named(std::string_view name) noexcept {
  for (std::size_t i = 0; i < detail::dtype_rows.size(); ++i)
    if (detail::dtype_rows[i].name == name) return static_cast<dtype>(i);
  return std::nullopt;
}
/// Whether elements are floating-point numbers.
[[nodiscard]] constexpr bool is_floating(dtype type) noexcept { return type <= dtype::bf16; }

/// The most axes a stored tensor may have. torch's own limit is 64; 16 bounds what a hostile header can make a reader
/// allocate, and no image model comes near.
inline constexpr std::size_t max_stored_rank = 16;

/// The longest name of a tensor that readers accept, in bytes. Names are cut into components and looked up again and
/// again: time would grow with the square of their length.
inline constexpr std::size_t max_tensor_name = 1000;

/// One tensor inside an open file: element (i, j, ...) is at data + (i*strides[0] + j*strides[1] + ...) *
/// size_of(type). Whoever made it has checked that every element lies inside the file; data need not be aligned.
struct stored_tensor {
  std::string name;                   ///< The file's own, less what marks a checkpoint's set of weights.
  dm2::dtype type = dm2::dtype::f32;  ///< Of every element.
  std::vector<std::int64_t> shape;    ///< Extents; empty for a single number.
  std::vector<std::int64_t> strides;  ///< In elements, one an axis, not negative.
  std::byte const* data = nullptr;    ///< The first element; belongs to the file.
  /// The CRC-32C of the elements in row-major order, where the file states one. Nobody has compared it yet.
  std::optional<std::uint32_t> checksum{};

  /// Number of elements.
  [[nodiscard]] std::size_t size() const noexcept {
    std::size_t count = 1;
    for (std::int64_t extent : shape) count *= static_cast<std::size_t>(extent);
    return count;
  }
  /// Whether the elements follow each other in row-major order without gaps.
  [[nodiscard]] bool contiguous() const noexcept {
    if (size() == 0) return true;
    std::int64_t expected = 1;
    for (std::size_t axis = shape.size(); axis-- > 0;) {
      if (shape[axis] != 1 && strides[axis] != expected) return false;
      expected *= shape[axis];
    }
    return true;
  }
};

/// "[2, 5, 18, 18]"
template <std::integral Int>
[[nodiscard]] std::string shape_text(std::span<Int const> shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + "]";
}
/// "[2, 5, 18, 18]"
[[nodiscard]] inline std::string shape_text(std::vector<std::int64_t> const& shape) {
  return shape_text(std::span<std::int64_t const>{shape});
}

namespace detail {

/// The product of the extents; nothing where one is negative or the product passes 2^60 (times 8 bytes still fits).
[[nodiscard]] inline std::optional<std::uint64_t> element_count(std::span<std::int64_t const> shape) noexcept {
  std::uint64_t count = 1;
  for (std::int64_t extent : shape) {
    if (extent < 0) return std::nullopt;
    auto const next = checked_product(count, static_cast<std::uint64_t>(extent));
    if (!next || *next > std::uint64_t{1} << 60) return std::nullopt;
    count = *next;
  }
  return count;
}

/// Row-major strides of a shape whose element_count exists.
[[nodiscard]] inline std::vector<std::int64_t> contiguous_strides(std::span<std::int64_t const> shape) {
  std::vector<std::int64_t> strides(shape.size(), 0);
  // with a zero extent no stride is ever used, and the product of the others may be anything
  if (element_count(shape) == std::uint64_t{0}) return strides;
  std::int64_t next = 1;  // no overflow: the product is 2^60 at most
  for (std::size_t axis = shape.size(); axis-- > 0;) {
    strides[axis] = next;
    next *= shape[axis];
  }
  return strides;
}

/// Calls visit(byte pointer, byte step, count) for each innermost row, in row-major order.
template <class Visit>
void for_each_row(stored_tensor const& t, Visit&& visit) {
  std::size_t const rank = t.shape.size(), count = t.size();
  auto const width = static_cast<std::int64_t>(size_of(t.type));
  if (count == 0) return;
  if (t.contiguous()) return visit(t.data, width, count);
  std::array<std::int64_t, max_stored_rank> index{};
  std::int64_t row = 0;  // in elements
  for (;;) {
    visit(t.data + row * width, t.strides[rank - 1] * width, static_cast<std::size_t>(t.shape[rank - 1]));
    std::size_t axis = rank - 1;
    while (axis-- > 0) {
      row += t.strides[axis];
      if (++index[axis] < t.shape[axis]) break;
      row -= t.strides[axis] * t.shape[axis];
      index[axis] = 0;
    }
    if (axis == static_cast<std::size_t>(-1)) return;
  }
}

/// Calls use(load), load(byte pointer) giving one element of `type` as a number: half and bfloat16 as float, bool as
/// 0 or 1.
template <class Use>
void with_loader(dtype type, Use&& use) {
  switch (type) {
    case dtype::f64:
      return use([](std::byte const* p) { return read_le<double>(p); });
    case dtype::f32:
      return use([](std::byte const* p) { return read_le<float>(p); });
    case dtype::f16:
      return use([](std::byte const* p) { return half_to_float(read_le<std::uint16_t>(p)); });
    case dtype::bf16:
      return use([](std::byte const* p) { return bfloat16_to_float(read_le<std::uint16_t>(p)); });
    case dtype::i64:
      return use([](std::byte const* p) { return read_le<std::int64_t>(p); });
    case dtype::i32:
      return use([](std::byte const* p) { return read_le<std::int32_t>(p); });
    case dtype::i16:
      return use([](std::byte const* p) { return read_le<std::int16_t>(p); });
    case dtype::i8:
      return use([](std::byte const* p) { return read_le<std::int8_t>(p); });
    case dtype::u8:
      return use([](std::byte const* p) { return read_le<std::uint8_t>(p); });
    case dtype::u64:
      return use([](std::byte const* p) { return read_le<std::uint64_t>(p); });
    case dtype::u32:
      return use([](std::byte const* p) { return read_le<std::uint32_t>(p); });
    case dtype::u16:
      return use([](std::byte const* p) { return read_le<std::uint16_t>(p); });
    case dtype::boolean:
      return use([](std::byte const* p) { return static_cast<std::uint8_t>(*p == std::byte{0} ? 0 : 1); });
  }
}

template <class T, class S>
T convert_element(S value, stored_tensor const& t) {
  if constexpr (std::floating_point<T> || std::same_as<T, S>) {
    return static_cast<T>(value);
  } else if constexpr (std::floating_point<S>) {
    throw std::invalid_argument{t.name + ": holds " + std::string{name_of(t.type)} + ", integers were asked for"};
  } else {
    if (!std::in_range<T>(value))
      throw std::out_of_range{t.name + ": " + std::to_string(value) + " does not fit the integers asked for"};
    return static_cast<T>(value);
  }
}

}  // namespace detail

/// out[k] = the k-th element of t in row-major order, whatever t's strides.
///
/// Half, bfloat16 and float become float or double exactly; double becomes the nearest float; integers become the
/// nearest floating-point number; bool becomes 0 or 1. For integer T the stored type has to be integer or bool.
///
/// Throws   shape_error unless out.size() == t.size() (nothing is written then); std::invalid_argument where integers
///          are asked of floating-point data, std::out_of_range where one does not fit.
template <class T>
  requires std::is_arithmetic_v<T> &&(!std::same_as<T, bool>)void copy_to(stored_tensor const& t, std::span<T> out) {
    if (out.size() != t.size())
      throw shape_error{t.name + ": got " + std::to_string(out.size()) + " places for " + std::to_string(t.size()) +
                        " elements"};
    T* to = out.data();
    detail::with_loader(t.type, [&](auto load) {
      using stored = decltype(load(t.data));
      detail::for_each_row(t, [&](std::byte const* from, std::int64_t step, std::size_t count) {
        if constexpr (std::same_as<stored, T> && sizeof(T) >= 4) {
          bool const plain =
              (t.type == dtype::f32 || t.type == dtype::f64 || t.type == dtype::i32 || t.type == dtype::i64);
          if (plain && step == static_cast<std::int64_t>(sizeof(T))) {
            std::memcpy(to, from, count * sizeof(T));
            to += count;
            return;
          }
        }
        for (std::size_t k = 0; k < count; ++k)
          *to++ = detail::convert_element<T>(load(from + static_cast<std::int64_t>(k) * step), t);
      });
    });
  }

  /// The elements of t in row-major order.
  template <class T>
  [[nodiscard]] std::vector<T> to_vector(stored_tensor const& t) {
    std::vector<T> out(t.size());
    copy_to(t, std::span<T>{out});
    return out;
  }

}  // namespace dm2
