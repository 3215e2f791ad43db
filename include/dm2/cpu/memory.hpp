/// @file
/// Zeroing, copying and exchanging runs of numbers.
#pragma once

#include <dm2/cpu/context.hpp>
#include <dm2/cpu/gemm.hpp>

#include <algorithm>
#include <cstddef>
#include <type_traits>

namespace dm2::cpu {

/// data[0, n) = 0. For n = 0, data may be null.
template <class T>
void clear(context<T>& ctx, std::type_identity_t<T>* data, std::size_t n) {
  ctx.for_range(std::ptrdiff_t(n), 4096,
                [&](std::ptrdiff_t first, std::ptrdiff_t last) { array(data + first, last - first).setZero(); });
}

/// to[0, n) = from[0, n), which do not overlap.
template <class T>
void copy(context<T>& ctx, std::type_identity_t<T> const* from, std::size_t n, std::type_identity_t<T>* to) {
  ctx.for_range(std::ptrdiff_t(n), 4096, [&](std::ptrdiff_t first, std::ptrdiff_t last) {
    array(to + first, last - first) = array(from + first, last - first);
  });
}

/// Exchanges a[0, n) and b[0, n), which do not overlap.
template <class T>
void exchange(context<T>& ctx, std::type_identity_t<T>* a, std::type_identity_t<T>* b, std::size_t n) {
  ctx.for_range(std::ptrdiff_t(n), 4096,
                [&](std::ptrdiff_t first, std::ptrdiff_t last) { std::swap_ranges(a + first, a + last, b + first); });
}

}  // namespace dm2::cpu
