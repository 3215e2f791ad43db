/// @file
/// Non-owning views whose widths and memory space are part of their type.
#pragma once

#include <dm2/core/compiler.hpp>

#include <array>
#include <cstddef>
#include <span>
#include <type_traits>

namespace dm2 {

/// Where a view's elements live. Host and device views are different types and do not convert.
enum class space : unsigned char { host, device };

/// Row-major [count, C]. C is part of the type, so joining two operations of different width does not compile.
template <class T, int C, space S = space::host>
struct rows {
  static_assert(C >= 1, "dm2::rows<T, C>: C (channels) must be at least 1");
  /// C
  static constexpr int width = C;

  T* data = nullptr;      ///< element (0, 0); null for a view of nothing
  std::size_t count = 0;  ///< rows

  constexpr rows() = default;
  /// n rows from `first` on, without gaps.
  constexpr rows(T* first, std::size_t n) : data{first}, count{n} {}
  /// rows<T, C> converts to rows<T const, C>, never the other way round.
  template <class U>
    requires std::is_convertible_v<U (*)[], T (*)[]>
  constexpr rows(rows<U, C, S> other) : data{other.data}, count{other.count} {}

  /// Row r of a host view.
  constexpr std::span<T, std::size_t(C)> operator[](std::size_t r) const requires(S == space::host) {
    return std::span<T, std::size_t(C)>{data + r * C, std::size_t(C)};
  }

  /// Rows [first, first + n).
  [[nodiscard]] constexpr rows slice(std::size_t first, std::size_t n) const { return {data + first * C, n}; }
  /// Elements.
  [[nodiscard]] constexpr std::size_t size() const { return count * C; }
};

/// A dense row-major tensor whose whole shape is known: a weight, a bias, a table.
template <class T, space S, int... Extents>
struct block {
  static_assert(((Extents >= 1) && ...), "dm2::block: every extent must be at least 1");
  /// Axes.
  static constexpr std::size_t rank = sizeof...(Extents);
  /// Extents, the slowest axis first.
  static constexpr std::array<int, rank> shape{Extents...};
  /// Elements.
  static constexpr std::size_t size = (std::size_t{1} * ... * std::size_t(Extents));

  T* data = nullptr;  ///< the first element; null for a view of nothing

  constexpr block() = default;
  /// `size` elements from `first` on.
  constexpr explicit block(T* first) : data{first} {}
  /// block<T, ...> converts to block<T const, ...>, never the other way round.
  template <class U>
    requires std::is_convertible_v<U (*)[], T (*)[]>
  constexpr block(block<U, S, Extents...> other) : data{other.data} {}
};

}  // namespace dm2
